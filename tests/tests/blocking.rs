//! Clients that wait get one reply each, whatever comes at the moment in which their time is over.

use ::redis::{Connection, Value};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tandem_tests::by_hand::{attach_as, attachment_of};
use tandem_tests::redis::{Options, Redis, ask, ask_text, send};
use tandem_tests::wait::{self, DEADLINE};

/// Clients at a time: what answers them all is as long as the moment that is looked for.
const CLIENTS: usize = 300;
/// How long they wait for an id.
const PATIENCE: Duration = Duration::from_millis(60);

fn blocked(redis: &mut Connection) -> usize {
    let info = ask_text(redis, &["INFO", "clients"]).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:").map(str::to_owned));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Sends two commands at once, the first of which waits.
fn ask_and_ping(server: &Redis, command: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("Redis listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.write_all(format!("{command}\r\nPING\r\n").as_bytes()).expect("it is sent");
    stream
}

/// Reads until the reply to PING, which must come after another one.
fn replies(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"+PONG\r\n") {
        let mut part = [0; 4096];
        let count = stream
            .read(&mut part)
            .unwrap_or_else(|error| panic!("no reply ({error}) after {:?}", String::from_utf8_lossy(&read)));
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn who_is_answered_as_the_time_ends_gets_one_reply() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let link = attachment_of("pg", ["c:", "cache", "both"]);
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-timeout-ms", &PATIENCE.as_millis().to_string()]);
    let owner = link.owner.words();
    let (mut nil, mut late) = (0, 0);
    for round in 0..24 {
        attach_as(&mut redis, &link);
        let started = Instant::now();
        let ids: Vec<String> = (0..CLIENTS).map(|client| format!("c:{round}.{client}")).collect();
        let mut clients: Vec<TcpStream> =
            ids.iter().map(|id| ask_and_ping(&server, &format!("TANDEM.GET {id}"))).collect();
        let wanted =
            [&["TANDEM.LINK", "WANTED", "pg"][..], &owner.each_ref().map(String::as_str), &["1000", "0"]]
                .concat();
        ask(&mut redis, &wanted);
        let mut fill = [&["TANDEM.LINK", "FILL", "pg"][..], &owner.each_ref().map(String::as_str)].concat();
        fill.extend(ids.iter().flat_map(|id| [id.as_str(), ""]));
        // Around the end of their time, which differs a little from client to client.
        let moment = PATIENCE * (16 + round % 12) / 20;
        while started.elapsed() < moment {
            std::hint::spin_loop();
        }
        let _ = send(&mut redis, &fill);
        for client in &mut clients {
            match replies(client).as_str() {
                "$-1\r\n+PONG\r\n" => nil += 1,
                text if text.starts_with("-TIMEOUT") && text.matches("\r\n").count() == 2 => late += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(nil > 0 && late > 0, "{nil} answered and {late} late: not about the moment");
}

#[test]
fn who_waits_for_links_or_ids_gets_one_reply_at_its_time() {
    let server = Redis::start(Options::in_memory());
    let (mut redis, mut worker) = (server.connect(), server.connect());
    let link = attachment_of("pg", ["", "mirror", "both"]);
    let run = attach_as(&mut worker, &link).run;
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    let owner = link.owner.words().join(" ");
    for (command, reply) in [
        ("TANDEM.WAIT 30".to_owned(), ":0\r\n+PONG\r\n"),
        (format!("TANDEM.LINK PULL pg {run} 1 10 1000 30"), "*0\r\n+PONG\r\n"),
        (format!("TANDEM.LINK WANTED pg {owner} 10 30"), "*0\r\n+PONG\r\n"),
    ] {
        assert_eq!(replies(&mut ask_and_ping(&server, &command)), reply, "{command}");
    }
    // Whoever goes away leaves nothing behind that is answered.
    for _ in 0..50 {
        drop(ask_and_ping(&server, "TANDEM.WAIT 20"));
    }
    let mut kept = ask_and_ping(&server, "TANDEM.WAIT 0");
    wait::until("all others are gone", DEADLINE, || blocked(&mut redis) == 1);
    ask(&mut worker, &["TANDEM.LINK", "ACK", "pg", &run, "1"]);
    assert_eq!(replies(&mut kept), ":1\r\n+PONG\r\n");
    assert_eq!(send(&mut redis, &["PING"]).expect("it is alive"), Value::SimpleString("PONG".into()));
}
