//! Rules against what flagd's own evaluation says of them.

use serde_json::json;

use super::*;

fn user() -> Map<String, Value> {
    let user = json!({
        "targetingKey": "user-1", "email": "ada@shop.example", "age": 42, "plan": "", "beta": true,
        "version": "1.10.0", "address": { "country": "DE", "lines": ["a", "b"] }, "with.dot": 1,
    });
    user.as_object().expect("an object").clone()
}

fn evaluate(rule: &Value) -> Option<String> {
    Rule::read(rule).unwrap_or_else(|e| panic!("{rule}: {e}")).evaluate("new_checkout", &user())
}

#[test]
fn operators_say_what_flagd_says() {
    let var = |path: &str| json!({ "var": path });
    for (rule, expected) in [
        (json!({ "==": [var("age"), 42] }), true),
        (json!({ "==": [var("age"), "42"] }), true),
        (json!({ "===": [var("age"), "42"] }), false),
        (json!({ "===": [var("age"), 42.0] }), true),
        (json!({ "==": [var("beta"), 1] }), true),
        (json!({ "==": [var("nobody"), null] }), true),
        (json!({ "!=": [var("email"), "x"] }), true),
        (json!({ "!==": [var("email"), "ada@shop.example"] }), false),
        (json!({ ">": [var("age"), 41] }), true),
        (json!({ "<=": [var("age"), 41] }), false),
        (json!({ "<": [var("email"), 41] }), false),
        (json!({ ">=": [var("age"), 42] }), true),
        (json!({ "in": [var("address.country"), ["DE", "FR"]] }), true),
        (json!({ "in": ["@shop", var("email")] }), true),
        (json!({ "in": ["x", var("nobody")] }), false),
        (json!({ "==": [var("address.lines.1"), "b"] }), true),
        (json!({ "==": [var("with.dot"), 1] }), true),
        (json!({ "==": [{ "var": ["nobody", "free"] }, "free"] }), true),
        (json!({ "==": [var("$flagd.flagKey"), "new_checkout"] }), true),
        (json!({ "!": [var("plan")] }), true),
        (json!({ "!!": var("address.lines") }), true),
        (json!({ "!": { "and": [var("beta"), { ">": [var("age"), 50] }] } }), true),
        (json!({ "or": [{ "!": [var("beta")] }, { "starts_with": [var("email"), "ada"] }] }), true),
        (json!({ "ends_with": [var("email"), ".example"] }), true),
        (json!({ "sem_ver": [var("version"), ">", "1.9.0"] }), true),
        (json!({ "sem_ver": ["v1.10", "=", var("version")] }), true),
        (json!({ "sem_ver": [var("version"), "^", "1.0.0"] }), true),
        (json!({ "sem_ver": [var("version"), "~", "1.9.9"] }), false),
        (json!({ "sem_ver": ["1.0.0-rc.1", "<", "1.0.0"] }), true),
        (json!({ "sem_ver": ["1.0.0+a", "=", "1.0.0+b"] }), true),
    ] {
        assert_eq!(evaluate(&rule).as_deref(), Some(if expected { "true" } else { "false" }), "{rule}");
    }
}

#[test]
fn what_cannot_be_told_is_null() {
    for rule in [
        json!({ "starts_with": [{ "var": "age" }, "4"] }),
        json!({ "sem_ver": ["myVersion_1", "=", "1.0.0"] }),
        json!({ "sem_ver": ["2.0.0.0", "=", "2.0.0"] }),
        json!({ "sem_ver": ["1.0.0", "near", "1.0.0"] }),
        json!({ "if": [false, "on"] }),
        json!({ "var": "nobody" }),
        json!({ "fractional": [["on", 0.5], ["off", 1]] }),
        json!({ "fractional": [["on", 2_147_483_647], ["off", 1]] }),
        json!({ "fractional": ["key", "on"] }),
        json!({ "fractional": [["on", 0]] }),
        json!({ "fractional": [[null, 1]] }),
        json!(null),
    ] {
        assert_eq!(evaluate(&rule), None, "{rule}");
    }
}

#[test]
fn rules_choose_variants() {
    let tier = json!({ "if": [
        { "in": ["@shop.example", { "var": "email" }] }, { "if": [{ "var": "plan" }, "gold", "silver"] },
        { "var": "beta" }, "on",
        "off",
    ] });
    assert_eq!(evaluate(&tier).as_deref(), Some("silver"));
    assert_eq!(evaluate(&json!({ "fractional": [["on"], ["on", 3]] })).as_deref(), Some("on"));
    // An explicit key decides alone: the same for every flag and user.
    let by_mail = json!({ "fractional": [{ "cat": ["a", { "var": "email" }] }, ["on", 10], ["off", 90]] });
    let constant = json!({ "fractional": ["aada@shop.example", ["on", 10], ["off", 90]] });
    assert_eq!(evaluate(&by_mail), evaluate(&constant));
}

#[test]
fn rules_that_are_none_are_refused_when_they_are_read() {
    let deep = (0..DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
    for (rule, expected) in [
        (json!({ "reduce": [] }), "`reduce` is not an operator of a rule here"),
        (json!({ "==": [1, 2], "!": 1 }), "`!`, `==` is not an operator"),
        (json!({}), "`` is not an operator"),
        (json!({ "==": [1] }), "`==` takes two operands"),
        (json!({ "if": [1] }), "`if` takes two or more operands"),
        (json!({ "<": [{ "var": "$flagd.timestamp" }, 5] }), "`$flagd.timestamp` is not"),
        (deep, "16 levels deep"),
        (json!([vec![1; NODES_MAX]]), "1000 parts long"),
    ] {
        let said = Rule::read(&rule).expect_err("a flaw").to_string();
        assert!(said.contains(expected), "{said}");
    }
}
