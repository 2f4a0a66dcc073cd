//! The service as a process of its own, to be killed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{JWT_KEY, TestDatabase};

/// A running `serve`; dropping it kills it with -9.
pub struct Process(Child);

impl Process {
    /// Configured by these settings, on top of what every node needs; without Kafka where they don't name one.
    pub fn start<'a>(
        database: &TestDatabase,
        port: u16,
        settings: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"))
            .arg("serve")
            .env("DATABASE_URL", &database.url)
            .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
            .env("JWT_KEY", JWT_KEY)
            .env("RUST_LOG", "off")
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .envs(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the service starts");
        Self(child)
    }
}

impl Process {
    /// Stands still, whatever it was doing, until it is resumed.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// As an operator stops it; ends when it has.
    pub fn stop(mut self) {
        self.signal("-TERM");
        assert!(self.0.wait().expect("its end").success());
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that was stopped has ended already.
        self.0.kill().ok();
        self.0.wait().expect("its end");
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
