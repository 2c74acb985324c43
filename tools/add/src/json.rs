//! JSON for people: what fits a line stands on one.

use serde_norway::Value;

/// The longest line, without its indentation.
const WIDTH: usize = 88;

/// The value, laid out; without a newline at its end.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Value, indent: usize, out: &mut String) {
    let line = line(value);
    // The document and its policies are never on one line: their keys are what people look for.
    if indent >= 6 && line.chars().count() <= WIDTH {
        out.push_str(&line);
        return;
    }
    let pad = " ".repeat(indent + 2);
    let close = " ".repeat(indent);
    match value {
        Value::Sequence(items) if !items.is_empty() => {
            out.push_str("[\n");
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ",\n" });
                out.push_str(&pad);
                write(item, indent + 2, out);
            }
            out.push_str(&format!("\n{close}]"));
        }
        Value::Mapping(entries) if !entries.is_empty() => {
            out.push_str("{\n");
            for (index, (key, item)) in entries.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ",\n" });
                out.push_str(&format!("{pad}{}: ", scalar(key)));
                write(item, indent + 2, out);
            }
            out.push_str(&format!("\n{close}}}"));
        }
        _ => out.push_str(&line),
    }
}

fn line(value: &Value) -> String {
    match value {
        Value::Sequence(items) => format!("[{}]", items.iter().map(line).collect::<Vec<_>>().join(", ")),
        Value::Mapping(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Mapping(entries) => {
            let entries = entries.iter().map(|(key, item)| format!("{}: {}", scalar(key), line(item)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => scalar(other),
    }
}

fn scalar(value: &Value) -> String {
    // Only a map with keys that are no texts has no JSON, and there is none here.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_line_stands_on_one_and_nothing_is_lost() {
        let text = r#"{"policies":[{"name":"a","on":["x","y"],"deep":{"z":1,"a":[{"b":1.50},null,true]},
            "long":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],
            "e":[],"o":{}}]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let pretty = pretty(&value);
        let expected = r#"{
  "policies": [
    {
      "name": "a",
      "on": ["x", "y"],
      "deep": {"z": 1, "a": [{"b": 1.5}, null, true]},
      "long": [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
      ],
      "e": [],
      "o": {}
    }
  ]
}"#;
        assert_eq!(pretty, expected);
        assert_eq!(serde_json::from_str::<Value>(&pretty).unwrap(), value);
    }
}
