// Asks an OFREP endpoint through the OpenFeature server SDK. In: {url, asks: [{kind, flag, default,
// context}]}; out: [{value, reason, variant, error}], in the same order.
const { readFileSync } = require("node:fs");
const { OpenFeature } = require("@openfeature/server-sdk");
const { OFREPProvider } = require("@openfeature/ofrep-provider");

(async () => {
  const { url, asks } = JSON.parse(readFileSync(0, "utf8"));
  await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: url }));
  const client = OpenFeature.getClient();
  const quiet = { error() {}, warn() {}, info() {}, debug() {} };
  client.setLogger(quiet);
  const by = {
    bool: client.getBooleanDetails, text: client.getStringDetails, integer: client.getNumberDetails,
    number: client.getNumberDetails, object: client.getObjectDetails,
  };
  const said = [];
  for (const { kind, flag, default: coded, context } of asks) {
    const got = await by[kind].call(client, flag, coded, context);
    said.push({ value: got.value, reason: got.reason, variant: got.variant ?? null, error: got.errorCode ?? null });
  }
  process.stdout.write(JSON.stringify(said));
})();
