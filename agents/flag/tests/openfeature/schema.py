"""Holds answers against the schemas of OFREP 0.3.0. In: {schemas, answers: [{schema, body}]}; out: what is wrong."""
import json
import sys

from jsonschema import Draft202012Validator

asked = json.load(sys.stdin)
wrong = []
for answer in asked["answers"]:
    schema = {"$ref": "#/components/schemas/" + answer["schema"], "components": {"schemas": asked["schemas"]}}
    for error in Draft202012Validator(schema).iter_errors(answer["body"]):
        wrong.append(f"{answer['schema']}: {error.message}")
json.dump(wrong, sys.stdout)
