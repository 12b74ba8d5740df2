// Evaluates flagd flags as flagd's own JavaScript core does. In: {flags, asks: [{flag, context}]};
// out: the variant of each, or null.
const { readFileSync } = require("node:fs");
const { FlagdCore } = require("@openfeature/flagd-core");

const { flags, asks } = JSON.parse(readFileSync(0, "utf8"));
const quiet = { error() {}, warn() {}, info() {}, debug() {} };
const core = new FlagdCore(undefined, quiet);
core.setConfigurations(JSON.stringify({ flags }));
const said = asks.map(({ flag, context }) => {
  const { variant, reason } = core.resolveStringEvaluation(flag, "", context, quiet);
  return reason === "ERROR" ? null : (variant ?? null);
});
process.stdout.write(JSON.stringify(said));
