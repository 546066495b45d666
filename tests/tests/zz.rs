//! x
#[test]
fn starts() {
    use tandem_tests::postgres::*;
    let mut p = Postgres::start(&Options { preload: false, fsync: true, ..Options::default() });
    let v: String = tandem_tests::sql::value(&mut p.connect(), "select version() || current_setting('data_directory') || (select collname from pg_collation where oid=100)");
    eprintln!("{v}");
    p.kill_hard();
    p.restart();
    let v: bool = tandem_tests::sql::value(&mut p.connect(), "select 'a' < 'B'");
    eprintln!("{v}");
    p.stop(); p.restart();
    let e = tandem_tests::sql::refused(&mut p.connect(), "create extension tandem");
    eprintln!("{e:?}");
}
