//! What many containers have in common: namespaces, mounts, hidden paths, device rules. A cell (`cells`) of a shape can be
//! made before the container that will live in it is known.

use crate::error::Result;
use crate::spec::{self, DeviceRule, DeviceRules, Mount, Namespace, Outline};
use serde_json::value::RawValue;

pub struct Shape {
    /// The spec's words: shapes are the same when these are.
    words: String,
    pub namespaces: Vec<Namespace>,
    pub mounts: Vec<Mount>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub devices: Option<Vec<DeviceRule>>,
}

impl Shape {
    /// What a spec says of its shape, unread.
    pub fn words(spec: &Outline) -> Result<String> {
        let rules: DeviceRules = spec::read("linux.resources", spec.linux.resources)?;
        let linux = &spec.linux;
        let members = [linux.namespaces, spec.mounts, linux.masked_paths, linux.readonly_paths, rules.devices];
        Ok(members.map(|text| text.map_or("", RawValue::get)).join("\n"))
    }

    pub fn read(spec: &Outline, words: String) -> Result<Self> {
        let rules: DeviceRules = spec::read("linux.resources", spec.linux.resources)?;
        Ok(Shape {
            words,
            namespaces: spec::read("linux.namespaces", spec.linux.namespaces)?,
            mounts: spec::read("mounts", spec.mounts)?,
            masked_paths: spec::read("linux.maskedPaths", spec.linux.masked_paths)?,
            readonly_paths: spec::read("linux.readonlyPaths", spec.linux.readonly_paths)?,
            devices: spec::read("linux.resources.devices", rules.devices)?,
        })
    }

    pub fn is(&self, words: &str) -> bool {
        self.words == words
    }

    /// Another cell of it could be made at any time: it names nothing that may be gone by then.
    pub fn is_repeatable(&self) -> bool {
        self.namespaces.iter().all(|namespace| namespace.path.is_empty())
    }

    /// All device rules of a container that has `more` than its shape says; none when these already are in force.
    pub fn with_rules(&self, more: Vec<DeviceRule>) -> Option<Vec<DeviceRule>> {
        let rules = self.devices.as_ref()?;
        let open = rules.last().is_some_and(|rule| rule.allow && rule.kind.is_none() && rule.major.is_none());
        (!open && !more.is_empty()).then(|| rules.iter().cloned().chain(more).collect())
    }

    pub fn has_own_network(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.kind == "network" && namespace.path.is_empty())
    }

    pub fn has_own_uts(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.kind == "uts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline<'_> {
        serde_json::from_str(text).unwrap()
    }

    const PLAIN: &str = r#"{"process": {"args": ["a"]}, "mounts": [{"destination": "/proc", "type": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}], "maskedPaths": ["/proc/kcore"],
        "resources": {"memory": {"limit": 7}, "devices": [{"allow": false}]}}}"#;

    #[test]
    fn what_a_container_runs_and_its_limits_are_no_part_of_a_shape() {
        let shape = Shape::read(&outline(PLAIN), Shape::words(&outline(PLAIN)).unwrap()).unwrap();
        let same = PLAIN.replace(r#"["a"]"#, r#"["b"]"#).replace("7", "8");
        assert!(shape.is(&Shape::words(&outline(&same)).unwrap()));
        for (old, new) in [("pid", "ipc"), ("/proc\"", "/p\""), ("kcore", "keys"), ("false", "true")] {
            assert!(!shape.is(&Shape::words(&outline(&PLAIN.replace(old, new))).unwrap()), "{new}");
        }
        assert_eq!(shape.mounts[0].destination, "/proc");
        assert_eq!(shape.devices.map(|rules| rules.len()), Some(1));
    }

    #[test]
    fn a_namespace_by_path_cannot_be_joined_again_later() {
        let joined = PLAIN.replace(r#"{"type": "pid"}"#, r#"{"type": "uts", "path": "/proc/7/ns/uts"}"#);
        let shape = |text: &str| Shape::read(&outline(text), String::new()).unwrap();
        assert!(shape(PLAIN).is_repeatable() && !shape(PLAIN).has_own_uts());
        assert!(!shape(&joined).is_repeatable() && shape(&joined).has_own_uts());
    }

    #[test]
    fn absent_members_are_empty_ones() {
        let shape = Shape::read(&outline(r#"{"process": {}}"#), String::new()).unwrap();
        assert!(shape.mounts.is_empty() && shape.devices.is_none());
    }
}
