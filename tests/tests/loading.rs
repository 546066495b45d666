//! What `loadmodule` is given is checked, as nobody else does: a setting that is misspelt, or that no CONFIG SET would
//! take, must not be passed over in silence.

use std::process::{Command, Stdio};
use tandem_tests::install::redis_module;
use tandem_tests::redis::{Options, Redis, ask};
use tandem_tests::scratch::Scratch;

/// What a server says that is started with these arguments of the module, and refuses to.
fn refusal(arguments: &[&str]) -> String {
    let scratch = Scratch::new("loading");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--dir"]).arg(scratch.path());
    command.arg("--unixsocket").arg(scratch.path().join("socket"));
    command.arg("--loadmodule").arg(redis_module()).args(arguments);
    // One that starts all the same is stopped by the end of time, and then has not refused.
    let output = Command::new("timeout")
        .arg("20")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .output()
        .expect("redis-server can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    text
}

#[test]
fn arguments_that_are_no_settings_are_refused() {
    for (arguments, saying) in [
        (&["bogus", "1"][..], "there is no setting 'bogus'"),
        (&["CDC-MAXLEN", "5"], "there is no setting 'CDC-MAXLEN'"),
        (&["tandem.digest-secret", "x"], "name one of digest-secret"),
        (&["content-bytes-max", "999999999999"], "give a number from 1 to 16777216"),
        (&["cdc-maxlen", "-1"], "cdc-maxlen cannot be '-1'"),
        (&["fetch-timeout-ms", "0"], "give a number from 1 to 3600000"),
        (&["pending-bytes-max", "0"], "pending-bytes-max cannot be '0'"),
        (&["cdc-maxlen", "many"], "invalid digit"),
        (&["cdc-maxlen", "5", "digest-secret"], "'digest-secret' has no value"),
    ] {
        let text = refusal(arguments);
        assert!(text.contains(saying), "{arguments:?}: {text}");
    }
}

#[test]
fn arguments_that_are_settings_are_taken() {
    let mut options = Options::in_memory();
    options.settings.splice(0..0, ["cdc-maxlen", "5", "digest-secret", "cdc-maxlen"].map(str::to_owned));
    let redis = Redis::start(options);
    let found = ask(&mut redis.connect(), &["CONFIG", "GET", "tandem.cdc-maxlen"]);
    assert!(format!("{found:?}").contains("\"5\""), "{found:?}");
}
