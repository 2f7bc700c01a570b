use super::*;

fn said() -> ProxyArguments {
    ProxyArguments {
        listen: Some("127.0.0.1:0".to_owned()),
        upstream: Some("http://127.0.0.1:1".to_owned()),
        store: Some("memory:".to_owned()),
        global_scope: Some(true),
        ..ProxyArguments::default()
    }
}

fn field(change: impl FnOnce(&mut ProxyArguments)) -> &'static str {
    let mut said = said();
    change(&mut said);
    config(&said).map_or_else(|error| error.field, |_| "fine")
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(field(|_| {}), "fine");
    assert_eq!(field(|said| said.listen = None), "listen");
    assert_eq!(field(|said| said.listen = text("8080")), "listen");
    assert_eq!(field(|said| said.upstream = text("host:1")), "upstream");
    assert_eq!(field(|said| said.store = None), "store");
    assert_eq!(field(|said| said.store = text("mysql://x")), "store");
    assert_eq!(field(|said| said.mode = text("both")), "mode");
    assert_eq!(field(|said| said.keyless = text("no")), "keyless");
    assert_eq!(field(|said| said.in_doubt = text("retry")), "in-doubt");
    assert_eq!(field(|said| said.timeout = text("30")), "timeout");
    assert_eq!(field(|said| said.timeout = text("0s")), "timeout");
    assert_eq!(field(|said| said.drain = text("99999d")), "drain");
    assert_eq!(
        field(|said| said.head_bytes_max = Some(1)),
        "head-bytes-max"
    );
    assert_eq!(field(|said| said.attempts_max = Some(3)), "attempts-max");
    assert_eq!(
        field(|said| said.outbox_unsent_max = text("1h")),
        "outbox-unsent-max"
    );
    assert_eq!(
        field(|said| said.outbox_leave_out = text("x-session")),
        "outbox-leave-out"
    );
    assert_eq!(field(|said| said.access_log = text("xml")), "access-log");
    assert_eq!(
        field(|said| said.tls_key = Some("/no/file".into())),
        "tls-certificate"
    );
    assert_eq!(field(|said| said.retention = text("9d")), "horizon");
    assert_eq!(
        field(|said| said.reconcile_fenced = Some(true)),
        "reconcile-fenced"
    );
    assert_eq!(
        field(|said| said.scope_jwt_key = Some("x".into())),
        "scope-jwt-claim"
    );
    assert_eq!(
        field(|said| said.scope_jwt_issuer = text("x")),
        "scope-jwt-claim"
    );
    let fenced = |said: &mut ProxyArguments| {
        said.in_doubt = text("rerun");
        said.reconcile_fenced = Some(true);
    };
    assert_eq!(field(fenced), "reconcile-fenced");
    assert_eq!(field(|said| said.migrate = Some(true)), "migrate");
    assert_eq!(
        field(|said| said.close_delimited = text("yes")),
        "close-delimited"
    );
    assert_eq!(
        field(|said| said.upstream_status = text("yes")),
        "upstream-status"
    );
    assert_eq!(
        field(|said| said.connections_max = Some(usize::MAX)),
        "connections-max"
    );
    assert_eq!(
        field(|said| said.header_lines_max = Some(100_000)),
        "header-lines-max"
    );
    let admin = |said: &mut ProxyArguments| said.admin_token_file = Some("/no/file".into());
    assert_eq!(field(admin), "admin");
}

// C13
#[test]
fn exactly_one_source_of_the_principal_must_be_said() {
    assert_eq!(field(|said| said.global_scope = None), "scope");
    assert_eq!(field(|said| said.global_scope = Some(false)), "scope");
    let two = |said: &mut ProxyArguments| said.scope_header = Some("x-tenant".to_owned());
    assert_eq!(field(two), "scope-header");
    let header = |name: &str| {
        let name = Some(name.to_owned());
        field(move |said| {
            said.global_scope = None;
            said.scope_header = name;
        })
    };
    assert_eq!(header("x-tenant"), "fine");
    assert_eq!(header("idempotency-key"), "scope-header");
    assert_eq!(header("two words"), "scope-header");
}

#[test]
fn an_egress_has_no_principal_and_keeps_its_calls_in_a_folder_or_nowhere() {
    let egress = |change: fn(&mut ProxyArguments)| {
        field(|said| {
            said.mode = Some("egress".to_owned());
            said.store = None;
            said.global_scope = None;
            change(said);
        })
    };
    assert_eq!(egress(|_| {}), "fine");
    assert_eq!(
        egress(|said| said.store = Some("memory:".to_owned())),
        "store"
    );
    let outbox = |said: &mut ProxyArguments| said.store = Some("sled:outbox".to_owned());
    assert_eq!(egress(outbox), "fine");
    let left_out = |said: &mut ProxyArguments| {
        said.outbox_leave_out = Some("x-session, x-seal".to_owned());
    };
    assert_eq!(egress(left_out), "outbox-leave-out");
    let too_large = |said: &mut ProxyArguments| {
        said.store = Some("sled:outbox".to_owned());
        said.body_bytes_max = Some(2 << 20);
    };
    assert_eq!(egress(too_large), "body-bytes-max");
    assert_eq!(
        egress(|said| said.attempt_timeout = Some("0s".to_owned())),
        "attempt-timeout"
    );
    let issuer = |said: &mut ProxyArguments| said.scope_jwt_issuer = Some("x".to_owned());
    assert_eq!(egress(issuer), "scope");
    assert_eq!(egress(|said| said.global_scope = Some(true)), "scope");
    assert_eq!(egress(|said| said.attempts_max = Some(0)), "attempts-max");
}
