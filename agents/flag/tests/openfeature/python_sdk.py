"""Asks an OFREP endpoint through the OpenFeature Python SDK; the same in and out as server_sdk.cjs."""
import json
import logging
import sys

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

logging.disable(logging.CRITICAL)
asked = json.load(sys.stdin)
api.set_provider(OFREPProvider(asked["url"]))
client = api.get_client()
by = {
    "bool": client.get_boolean_details,
    "text": client.get_string_details,
    "integer": client.get_integer_details,
    "number": client.get_float_details,
    "object": client.get_object_details,
}
said = []
for ask in asked["asks"]:
    context = dict(ask["context"])
    user = EvaluationContext(context.pop("targetingKey", None), context)
    got = by[ask["kind"]](ask["flag"], ask["default"], user)
    error = got.error_code.value if got.error_code else None
    said.append({"value": got.value, "reason": getattr(got.reason, "value", got.reason), "variant": got.variant, "error": error})
json.dump(said, sys.stdout)
