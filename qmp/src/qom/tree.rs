//! The tree of objects, made anew for each command from what the machine says of itself.

use serde_json::Value;

use super::types::{self, QomType};
use crate::backend::CommandError;
use crate::json::object;

mod objects;
mod setting;

pub(crate) use objects::{STATISTICS, statistics_value};
pub use setting::Change;

/// Objects are known by their place in the tree's list.
type Id = usize;

/// What a property holds.
#[derive(Debug)]
enum Slot {
    /// A value.
    Value(Value),
    /// Another object, or none.
    Link(Option<Id>),
}

/// An object.
#[derive(Debug)]
struct Object {
    name: String,
    ty: &'static QomType,
    parent: Option<Id>,
    children: Vec<Id>,
    /// What the properties of its type hold.
    slots: Vec<(&'static str, Slot)>,
    /// Links that its type does not have: name, type of the target, target.
    links: Vec<(String, &'static str, Id)>,
}

/// The tree; object 0 is the root.
#[derive(Debug)]
pub struct Tree(Vec<Object>);

/// What a path leads to.
enum Found {
    One(Id),
    None,
    Many,
}

impl Tree {
    fn add(
        &mut self,
        parent: Option<Id>,
        name: &str,
        ty: &str,
        slots: Vec<(&'static str, Slot)>,
    ) -> Id {
        let id = self.0.len();
        // Every name that is used here is in the table; a test walks the whole tree.
        let ty = types::find(ty).unwrap_or(types::root());
        self.0.push(Object {
            name: name.to_owned(),
            ty,
            parent,
            children: Vec::new(),
            slots,
            links: Vec::new(),
        });
        if let Some(parent) = parent {
            self.0[parent].children.push(id);
        }
        id
    }

    /// `qom-list`.
    ///
    /// # Errors
    ///
    /// When the path leads nowhere, or to several objects.
    pub fn list(&self, path: &str) -> Result<Value, CommandError> {
        let object_at = match self.resolve(path) {
            Found::One(id) => &self.0[id],
            Found::None => return Err(not_found(path)),
            Found::Many => {
                let fault = format!("Path '{path}' is ambiguous");
                return Err(CommandError::Generic(fault));
            }
        };
        let property = |name: &str, ty: &str| object([("name", name.into()), ("type", ty.into())]);
        let own = object_at.ty.all_properties().into_iter();
        let own = own.filter(|own| own.is_listed);
        let own = own.map(|own| property(own.name, own.ty));
        let children = object_at.children.iter().map(|&id| &self.0[id]);
        let children =
            children.map(|child| property(&child.name, &format!("child<{}>", child.ty.name)));
        let links = object_at.links.iter();
        let links = links.map(|(name, ty, _)| property(name, &format!("link<{ty}>")));
        Ok(own.chain(children).chain(links).collect())
    }

    /// `qom-get`.
    ///
    /// # Errors
    ///
    /// When there is no such object or property, or it cannot be read.
    pub fn get(&self, path: &str, property: &str) -> Result<Value, CommandError> {
        let id = self.find(path)?;
        let object = &self.0[id];
        if property == "type" {
            return Ok(object.ty.name.into());
        }
        if let Some(target) = self.component(id, property) {
            return Ok(self.path(target).into());
        }
        let slot = object.slots.iter().find(|(name, _)| *name == property);
        match slot {
            Some((_, Slot::Value(value))) => Ok(value.clone()),
            Some((_, Slot::Link(_))) => Ok("".into()),
            None if object.ty.property(property).is_some() => {
                Err(object.fault(property, "is not readable"))
            }
            None => Err(object.fault(property, "not found")),
        }
    }

    fn find(&self, path: &str) -> Result<Id, CommandError> {
        match self.resolve(path) {
            Found::One(id) => Ok(id),
            Found::None | Found::Many => Err(not_found(path)),
        }
    }

    /// What a path leads to: from the root if it begins with a slash, else from any one object.
    fn resolve(&self, path: &str) -> Found {
        let from = |start: Id| {
            let mut parts = path.split('/').filter(|part| !part.is_empty());
            parts.try_fold(start, |id, part| self.component(id, part))
        };
        if path.starts_with('/') {
            return from(0).map_or(Found::None, Found::One);
        }
        let mut found = (0..self.0.len()).filter_map(from);
        match (found.next(), found.next()) {
            (Some(id), None) => Found::One(id),
            (None, _) => Found::None,
            (Some(_), Some(_)) => Found::Many,
        }
    }

    /// The child of this name, or what the link of this name leads to.
    fn component(&self, id: Id, name: &str) -> Option<Id> {
        let object = &self.0[id];
        let mut children = object.children.iter().copied();
        let child = children.find(|&child| self.0[child].name == name);
        let slot = || {
            let mut slots = object.slots.iter();
            slots.find_map(|(slot, value)| match value {
                Slot::Link(target) if *slot == name => *target,
                _ => None,
            })
        };
        let link = || {
            let mut links = object.links.iter();
            links.find_map(|(link, _, target)| (link == name).then_some(*target))
        };
        child.or_else(slot).or_else(link)
    }

    fn path(&self, id: Id) -> String {
        let object = &self.0[id];
        match object.parent {
            None => "/".to_owned(),
            Some(0) => format!("/{}", object.name),
            Some(parent) => format!("{}/{}", self.path(parent), object.name),
        }
    }
}

impl Object {
    fn fault(&self, property: &str, what: &str) -> CommandError {
        CommandError::Generic(format!("Property '{}.{property}' {what}", self.ty.name))
    }
}

fn not_found(path: &str) -> CommandError {
    CommandError::DeviceNotFound(format!("Device '{path}' not found"))
}

#[cfg(test)]
mod tests;
