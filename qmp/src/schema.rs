//! `query-qmp-schema`: the table of commands and events in QEMU's SchemaInfo form.
//!
//! QEMU 10.0, "Client JSON Protocol introspection": types are known by what they consist of, their
//! names are numbers without meaning, equal types are one. "0" is the object without members.

use serde_json::Value;

use crate::command::types::{Member, Type};
use crate::command::{COMMANDS, Command};
use crate::events::EVENTS;
use crate::json::{object, object_of};

/// The whole schema: an array of SchemaInfo.
pub fn schema() -> Value {
    let mut types = Types::new();
    let commands = COMMANDS.iter();
    let mut infos: Vec<_> = commands.map(|command| types.command(command)).collect();
    let events = EVENTS.iter();
    infos.extend(events.map(|(name, data)| types.event(name, data)));
    infos.extend(types.into_infos());
    infos.into()
}

/// What a type consists of: its meta-type and the members of its SchemaInfo, without the name.
#[derive(Debug, PartialEq)]
struct Content(&'static str, Vec<(&'static str, Value)>);

/// The types that have been met, with their names.
#[derive(Debug, Default)]
struct Types(Vec<(String, Content)>);

impl Types {
    fn new() -> Self {
        let mut types = Self::default();
        types.object(&[]);
        types
    }

    /// All types as SchemaInfo.
    fn into_infos(self) -> impl Iterator<Item = Value> {
        self.0.into_iter().map(|(name, Content(meta, members))| {
            let own = [("name", name.into()), ("meta-type", meta.into())];
            object_of(own.into_iter().chain(members))
        })
    }

    fn command(&mut self, command: &Command) -> Value {
        let mut info = vec![
            ("name", command.name.into()),
            ("meta-type", "command".into()),
            ("arg-type", self.object(command.arguments).into()),
            ("ret-type", self.name(&command.returns).into()),
        ];
        if command.allow_oob {
            info.push(("allow-oob", true.into()));
        }
        object_of(info)
    }

    fn event(&mut self, name: &str, data: &[Member]) -> Value {
        object([
            ("name", name.into()),
            ("meta-type", "event".into()),
            ("arg-type", self.object(data).into()),
        ])
    }

    /// The name of a type, which is in the schema from now on.
    fn name(&mut self, ty: &Type) -> String {
        match ty {
            Type::Int | Type::Uint => self.builtin("int", "int"),
            Type::Any => self.builtin("any", "value"),
            Type::Bool => self.builtin("bool", "boolean"),
            Type::Str => self.builtin("str", "string"),
            Type::Enum(values) => self.enumeration(values),
            Type::Array(element) => {
                let element = self.name(element);
                let name = format!("[{element}]");
                self.add(
                    Content("array", vec![("element-type", element.into())]),
                    Some(name),
                )
            }
            Type::Object(members) => self.object(members),
        }
    }

    fn builtin(&mut self, name: &str, json: &str) -> String {
        let content = Content("builtin", vec![("json-type", json.into())]);
        self.add(content, Some(name.to_owned()))
    }

    fn enumeration(&mut self, names: &[&str]) -> String {
        let members = names.iter().map(|name| object([("name", (*name).into())]));
        // The older form of the same, which clients still read.
        let values = names.iter().copied().collect();
        let content = vec![("members", members.collect()), ("values", values)];
        self.add(Content("enum", content), None)
    }

    fn object(&mut self, members: &[Member]) -> String {
        let members = members.iter().map(|member| self.member(member)).collect();
        self.add(Content("object", vec![("members", members)]), None)
    }

    fn member(&mut self, member: &Member) -> Value {
        let mut info = vec![
            ("name", member.name.into()),
            ("type", self.name(&member.ty).into()),
        ];
        if member.optional {
            // Says only that there is a default.
            info.push(("default", Value::Null));
        }
        object_of(info)
    }

    /// The name of the type that consists of this: `name`, or else a number that no other has.
    fn add(&mut self, content: Content, name: Option<String>) -> String {
        let known = self.0.iter().find(|(_, known)| *known == content);
        if let Some((name, _)) = known {
            return name.clone();
        }
        let name = name.unwrap_or_else(|| self.0.len().to_string());
        self.0.push((name.clone(), content));
        name
    }
}

#[cfg(test)]
mod tests;
