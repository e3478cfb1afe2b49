//! What a server says about its commands (`query-qmp-schema`; QAPI code generation, "Client JSON
//! Protocol introspection"). Servers hide the names of types behind numbers, so that what is shown
//! is made out of their content.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

/// How deep nested types are followed: schemas have types that contain themselves.
const MAX_DEPTH: usize = 8;
/// Values, and members, of nested types that are shown; some have hundreds.
const MAX_SHOWN: usize = 6;

/// The commands of a server, with the types of their arguments.
#[derive(Debug, Default)]
pub struct Schema {
    /// Each command with the name of its arguments' type, and that of its result.
    commands: BTreeMap<String, Option<Signature>>,
    types: HashMap<String, Type>,
}

/// The names of a command's types.
#[derive(Debug)]
struct Signature {
    arguments: String,
    returns: String,
}

#[derive(Debug)]
enum Type {
    Builtin(String),
    Enumeration(Vec<String>),
    Array(String),
    Object(Vec<Member>),
    Alternate(Vec<String>),
}

/// An argument of a command, or a member of a nested object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The name of its type.
    type_name: String,
    /// Whether it may be left out.
    pub is_optional: bool,
    /// The members and values of which this one depends, as `driver=file`.
    pub only_with: Option<String>,
}

impl Schema {
    /// The schema that `query-qmp-schema` returned.
    pub fn new(entries: &Value) -> Self {
        let mut schema = Self::default();
        let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
        // Variants name the types of other entries.
        let by_name: HashMap<&str, &Value> = entries
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?, entry)))
            .collect();
        for (&name, &entry) in &by_name {
            match entry["meta-type"].as_str() {
                Some("command") => {
                    let signature = Signature {
                        arguments: text(&entry["arg-type"]),
                        returns: text(&entry["ret-type"]),
                    };
                    schema.commands.insert(name.to_owned(), Some(signature));
                }
                Some("event") | None => {}
                Some(kind) => {
                    let content = content(kind, entry, &by_name);
                    schema.types.insert(name.to_owned(), content);
                }
            }
        }
        schema
    }

    /// A schema that knows names only, those that `query-commands` returned.
    pub fn of_names(commands: &Value) -> Self {
        let commands = commands.as_array().into_iter().flatten();
        let names = commands.filter_map(|command| command["name"].as_str());
        Self {
            commands: names.map(|name| (name.to_owned(), None)).collect(),
            types: HashMap::new(),
        }
    }

    /// The names of all commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.keys().map(String::as_str)
    }

    /// Whether there is such a command.
    pub fn has(&self, command: &str) -> bool {
        self.commands.contains_key(command)
    }

    /// The arguments of a command; `None` where the server does not say.
    pub fn arguments(&self, command: &str) -> Option<&[Member]> {
        let signature = self.commands.get(command)?.as_ref()?;
        Some(self.members(&signature.arguments))
    }

    /// What a command returns, in words; `None` where the server does not say.
    pub fn returns(&self, command: &str) -> Option<String> {
        let signature = self.commands.get(command)?.as_ref()?;
        match self.types.get(&signature.returns) {
            Some(Type::Object(members)) if members.is_empty() => Some("nothing".to_owned()),
            _ => Some(self.describe_name(&signature.returns, 0)),
        }
    }

    /// The members behind a path of keys, as `a.b` leads to those of `b` in `a`.
    pub fn nested<'a>(&'a self, command: &str, path: &[&str]) -> &'a [Member] {
        let mut members = self.arguments(command).unwrap_or_default();
        for key in path {
            let member = members.iter().find(|member| member.name == **key);
            members = member.map_or(&[], |member| self.members(&member.type_name));
        }
        members
    }

    /// Whether a member is an object, with members of its own.
    pub fn is_object(&self, member: &Member) -> bool {
        matches!(self.types.get(&member.type_name), Some(Type::Object(_)))
    }

    /// The values that a member can have, where they can be listed.
    pub fn values(&self, member: &Member) -> Vec<&str> {
        match self.types.get(&member.type_name) {
            Some(Type::Enumeration(values)) => values.iter().map(String::as_str).collect(),
            Some(Type::Builtin(name)) if name == "boolean" => vec!["false", "true"],
            _ => Vec::new(),
        }
    }

    /// A member's type in words: `int`, `on|off`, `[string]`, `{path: string}`.
    pub fn describe(&self, member: &Member) -> String {
        self.describe_name(&member.type_name, 0)
    }

    fn members(&self, type_name: &str) -> &[Member] {
        match self.types.get(type_name) {
            Some(Type::Object(members)) => members,
            _ => &[],
        }
    }

    fn describe_name(&self, name: &str, depth: usize) -> String {
        if depth > MAX_DEPTH {
            return "…".to_owned();
        }
        let inner = |name: &String| self.describe_name(name, depth + 1);
        match self.types.get(name) {
            None => "any".to_owned(),
            Some(Type::Builtin(name)) => match name.as_str() {
                "value" => "any".to_owned(),
                name => name.to_owned(),
            },
            Some(Type::Enumeration(values)) if depth > 0 && values.len() > MAX_SHOWN => {
                format!("{}|…", values[..MAX_SHOWN].join("|"))
            }
            Some(Type::Enumeration(values)) => values.join("|"),
            Some(Type::Array(element)) => format!("[{}]", inner(element)),
            Some(Type::Alternate(choices)) => {
                choices.iter().map(inner).collect::<Vec<_>>().join(" or ")
            }
            // One level says enough.
            Some(Type::Object(members)) if depth > 1 || members.len() > MAX_SHOWN => {
                "{…}".to_owned()
            }
            Some(Type::Object(members)) => {
                let member = |member: &Member| {
                    let mark = if member.is_optional { "?" } else { "" };
                    format!("{}{mark}: {}", member.name, inner(&member.type_name))
                };
                let members: Vec<_> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(", "))
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The type that an entry of this kind defines.
fn content(kind: &str, entry: &Value, by_name: &HashMap<&str, &Value>) -> Type {
    let list = |name: &str| entry[name].as_array().into_iter().flatten();
    match kind {
        "enum" => Type::Enumeration(list("values").map(text).collect()),
        "array" => Type::Array(text(&entry["element-type"])),
        "alternate" => Type::Alternate(list("members").map(|one| text(&one["type"])).collect()),
        "object" => {
            let mut all: Vec<Member> = list("members").map(member).collect();
            let tag = text(&entry["tag"]);
            for variant in list("variants") {
                let condition = format!("{tag}={}", text(&variant["case"]));
                let object = variant["type"].as_str().and_then(|name| by_name.get(name));
                let members = object.and_then(|object| object["members"].as_array());
                for one in members.into_iter().flatten() {
                    all.push(Member {
                        only_with: Some(condition.clone()),
                        ..member(one)
                    });
                }
            }
            Type::Object(all)
        }
        _ => Type::Builtin(text(&entry["json-type"])),
    }
}

fn member(entry: &Value) -> Member {
    Member {
        name: text(&entry["name"]),
        type_name: text(&entry["type"]),
        // A member with a default, null included, may be left out.
        is_optional: entry.get("default").is_some(),
        only_with: None,
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A server with three commands.
    pub fn schema() -> Schema {
        Schema::new(&json!([
            {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            {"name": "balloon", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {"name": "add", "meta-type": "command", "arg-type": "2", "ret-type": "[int]"},
            {"name": "STOP", "meta-type": "event", "arg-type": "0"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "1", "meta-type": "object", "members": [{"name": "value", "type": "int"}]},
            {"name": "2", "meta-type": "object", "tag": "driver", "members": [
                {"name": "driver", "type": "3"},
                {"name": "read-only", "type": "bool", "default": null},
                {"name": "inner", "type": "1", "default": null},
            ], "variants": [{"case": "file", "type": "4"}, {"case": "null", "type": "0"}]},
            {"name": "3", "meta-type": "enum", "values": ["file", "null"]},
            {"name": "4", "meta-type": "object", "members": [{"name": "path", "type": "str"}]},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "[int]", "meta-type": "array", "element-type": "int"},
        ]))
    }

    #[test]
    fn arguments_have_types_in_words() {
        let schema = schema();
        let described: Vec<_> = schema
            .arguments("add")
            .unwrap()
            .iter()
            .map(|member| (member.name.as_str(), schema.describe(member)))
            .collect();
        let expected = [
            ("driver", "file|null"),
            ("read-only", "boolean"),
            ("inner", "{value: int}"),
            ("path", "string"),
        ];
        assert_eq!(
            described,
            expected.map(|(name, kind)| (name, kind.to_owned()))
        );
        assert_eq!(schema.returns("add").unwrap(), "[int]");
        assert_eq!(schema.returns("stop").unwrap(), "nothing");
    }

    #[test]
    fn member_of_a_variant_names_its_condition() {
        let schema = schema();
        let path = schema.arguments("add").unwrap().last().unwrap();
        assert_eq!(path.only_with.as_deref(), Some("driver=file"));
    }

    #[test]
    fn path_leads_into_nested_objects() {
        let schema = schema();
        assert_eq!(schema.nested("add", &["inner"])[0].name, "value");
        assert!(schema.nested("add", &["driver"]).is_empty());
        assert!(schema.nested("none", &["a", "b"]).is_empty());
    }

    #[test]
    fn names_alone_leave_the_arguments_open() {
        let schema = Schema::of_names(&json!([{"name": "stop"}, {"name": "cont"}]));
        assert_eq!(schema.commands().collect::<Vec<_>>(), ["cont", "stop"]);
        assert_eq!(schema.arguments("stop"), None);
    }

    #[test]
    fn type_that_contains_itself_has_an_end() {
        let schema = Schema::new(&json!([
            {"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "1", "meta-type": "array", "element-type": "1"},
        ]));
        assert!(schema.returns("c").unwrap().contains('…'));
    }
}
