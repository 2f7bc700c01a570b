//! Which methods have effects. The wire does not say, nor does it say which are unary.

use std::collections::BTreeMap;

/// The methods that somebody has named, each by its path or with all of its service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Methods {
    /// By `/package.Service/Method`.
    methods: BTreeMap<Box<str>, Protection>,
    /// By `/package.Service/`.
    services: BTreeMap<Box<str>, Protection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Protected,
    /// Its handler says when it begins.
    ProtectedEntered,
    Unprotected,
}

// === impl Methods ===

impl Methods {
    /// Names one method.
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`: it would name nothing, and what it was
    /// meant to name would go unprotected.
    pub(crate) fn name_method(&mut self, path: &str, protection: Protection) {
        let parts: Vec<&str> = path.split('/').collect();
        let valid =
            matches!(parts[..], ["", service, method] if is_name(service) && is_name(method));
        assert!(
            valid,
            "a method's path is /package.Service/Method, not {path}"
        );
        self.methods.insert(path.into(), protection);
    }

    /// Names all methods of a service that are not named by themselves.
    ///
    /// # Panics
    ///
    /// When `service` is not of the form `package.Service`.
    pub(crate) fn name_service(&mut self, service: &str) {
        assert!(
            is_name(service),
            "a service's name is package.Service, not {service}"
        );
        let prefix = format!("/{service}/");
        self.services.insert(prefix.into(), Protection::Protected);
    }

    pub(crate) fn protects(&self, path: &str) -> bool {
        !matches!(self.protection(path), None | Some(Protection::Unprotected))
    }

    /// What was said of the method at `path`.
    pub(crate) fn protection(&self, path: &str) -> Option<Protection> {
        let service = path.rfind('/').map_or(path, |slash| &path[..=slash]);
        let named = self
            .methods
            .get(path)
            .or_else(|| self.services.get(service));
        named.copied()
    }
}

fn is_name(name: &str) -> bool {
    let name_like = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.bytes().all(name_like)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_protected_by_its_path_or_with_its_service() {
        let mut methods = Methods::default();
        methods.name_method("/bank.Bank/Transfer", Protection::Protected);
        methods.name_service("shop.Shop");
        methods.name_method("/shop.Shop/Watch", Protection::Unprotected);
        methods.name_method("/shop.Shop/Pay", Protection::ProtectedEntered);
        for (path, protected) in [
            ("/bank.Bank/Transfer", true),
            ("/bank.Bank/Balance", false),
            ("/bank.Bank/", false),
            ("/bank.Bank/Transfer/", false),
            ("/x/bank.Bank/Transfer", false),
            ("/shop.Shop/Order", true),
            ("/shop.Shop/Pay", true),
            ("/shop.Shop/Watch", false),
            ("/shop.Shopping/Order", false),
            ("", false),
            ("/", false),
        ] {
            assert_eq!(methods.protects(path), protected, "{path}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_when_it_is_said() {
        for path in [
            "",
            "/",
            "bank.Bank/Transfer",
            "/bank.Bank",
            "/bank.Bank/",
            "/a/b/c",
            "/a/b c",
        ] {
            let name = || Methods::default().name_method(path, Protection::Protected);
            assert!(std::panic::catch_unwind(name).is_err(), "{path}");
        }
        for service in ["", "/bank.Bank", "bank.Bank/", "bank.Bank/Transfer"] {
            let name = || Methods::default().name_service(service);
            assert!(std::panic::catch_unwind(name).is_err(), "{service}");
        }
    }
}
