//! Real proxies in front of an API that is none, run with the files of `docs/gateways`: addresses and the key put in, and
//! nothing else changed. What these proxies are not (Traefik, Envoy) is asked as they ask.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::*;
use crate::support::{eventually, free_port};

const KEY: &str = "the-gateways-key";
const ENVIRONMENT: &str = "/api/v1/envs/0192f0c0-0000-7000-8000-0000000000e1/feature-flags";
const IN_PROD: &str = "project/web:env/prod:flag/*";

/// An API that answers 200 to whatever comes to it, and remembers the head of each request.
struct Api {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let requests = Arc::clone(&requests);
                tokio::spawn(async move {
                    let mut received = Vec::new();
                    let head = loop {
                        match connection.read_buf(&mut received).await {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                        let text = String::from_utf8_lossy(&received);
                        if let Some((head, _)) = text.split_once("\r\n\r\n") {
                            break head.to_owned();
                        }
                    };
                    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
                    let whole = head.len() + 4 + length;
                    while received.len() < whole && connection.read_buf(&mut received).await.unwrap() > 0 {}
                    requests.lock().unwrap().push(head);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nAPI";
                    connection.write_all(answer).await.unwrap();
                });
            }
        });
        Self { address, seen }
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// A header of the last request that came.
    fn last(&self, name: &str) -> Option<String> {
        header(self.seen.lock().unwrap().last().unwrap(), name)
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
    Some(value.to_owned())
}

/// A proxy that runs; it ends with this.
struct Proxy {
    name: &'static str,
    address: SocketAddr,
    _child: Child,
    folder: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

impl Proxy {
    /// With its file of `docs/gateways`.
    async fn start(name: &'static str, tokens: SocketAddr, api: SocketAddr) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("featbit-tokens-{name}-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = if name == "nginx" {
            "nginx.conf"
        } else {
            "Caddyfile"
        };
        let shown = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("docs/gateways")
                .join(file),
        );
        let mut config = shown
            .unwrap()
            .replace("127.0.0.1:5080", &tokens.to_string())
            .replace("127.0.0.1:5000", &api.to_string())
            .replace("GATEWAY_KEY", KEY)
            .replace("listen 8080", &format!("listen {address}"))
            .replace("http://:8080", &format!("http://:{}", address.port()));
        if name == "nginx" {
            // Debian's folders for these are root's.
            let mut temporary = "http {\naccess_log off;\n".to_owned();
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                temporary += &format!("{kind}_temp_path {}/{kind};\n", folder.display());
            }
            config = config.replacen("http {", &temporary, 1);
        }
        let config_path = folder.join(file);
        std::fs::write(&config_path, config).unwrap();
        let mut command = Command::new(program(name));
        match name {
            "nginx" => command
                .args(["-e", "stderr", "-g"])
                .arg(format!(
                    // One process, so that none is left when it is killed.
                    "daemon off; master_process off; pid {}/pid;",
                    folder.display()
                ))
                .arg("-c")
                .arg(&config_path),
            _ => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(&config_path)
                .env("HOME", &folder),
        };
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let proxy = Self {
            name,
            address,
            _child: child,
            folder,
        };
        eventually("the proxy listens", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        proxy
    }

    /// Sends a request as it is written, and reads the answer to its end: the status, and all of it.
    async fn send(&self, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request = format!("{line} HTTP/1.1\r\nhost: featbit.example\r\nconnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}"));
        (status.parse().unwrap(), answer)
    }

    async fn toggle(&self, flag: &str, headers: &[(&str, &str)]) -> u16 {
        self.send(&format!("PUT {ENVIRONMENT}/{flag}/toggle/true"), headers, "")
            .await
            .0
    }
}

/// A program that is installed: `scripts/test` sees to it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: apt-get install {name}, or run scripts/test"))
}

/// A node that believes what one proxy says, an API, and both proxies in front of it.
async fn behind_proxies() -> (TestApp, Api, [Proxy; 2]) {
    let app = node(vec![
        ("GATEWAY_KEYS", KEY.to_owned()),
        ("TRUSTED_PROXY_HOPS", "1".to_owned()),
        // However busy the machine is.
        ("MAX_STALENESS_MS", "30000".to_owned()),
    ])
    .await;
    let api = Api::start().await;
    let tokens = app.app.address;
    let nginx = Proxy::start("nginx", tokens, api.address).await;
    let caddy = Proxy::start("caddy", tokens, api.address).await;
    (app, api, [nginx, caddy])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permitted_token_passes_and_no_other_and_a_stopped_one_is_stopped_at_the_next_request() {
    let (app, api, proxies) = behind_proxies().await;
    let owner = app.owner();
    let (_, elsewhere) = owner
        .service_token("elsewhere", "ToggleFlag", "project/web:env/dev:flag/*")
        .await;
    for proxy in &proxies {
        let name = proxy.name;
        let (id, secret) = owner.service_token(name, "ToggleFlag", IN_PROD).await;
        let presented = [("authorization", secret.as_str())];
        let before = api.requests();
        assert_eq!(proxy.toggle("dark-mode", &presented).await, 200, "{name}");
        assert_eq!(api.last("x-token-id"), Some(id.clone()), "{name}");
        assert_eq!(
            api.last("x-organization-id"),
            Some(app.organization_id.to_string())
        );
        assert_eq!(
            api.last("x-gateway-key"),
            None,
            "{name}: the key is not for the API"
        );
        assert_eq!(api.requests(), before + 1, "{name}");

        let line = format!("PUT {ENVIRONMENT}/dark-mode/toggle/true");
        for (headers, status, said) in [
            (vec![("authorization", elsewhere.as_str())], 403, "Forbidden"),
            (vec![("authorization", "api-p_nobody")], 401, "Unauthorized"),
            (vec![], 401, "Unauthorized"),
        ] {
            let (answered, answer) = proxy.send(&line, &headers, "").await;
            assert_eq!(answered, status, "{name} {headers:?}: {answer}");
            let envelope = format!(r#"{{"success":false,"errors":["{said}"],"data":null}}"#);
            assert!(answer.ends_with(&envelope), "{name}: {answer}");
            let challenged = header(&answer, "www-authenticate").is_some();
            assert_eq!(challenged, status == 401, "{name}: {answer}");
        }
        // Neither another method there, nor another path.
        for line in [
            format!("GET {ENVIRONMENT}/dark-mode/toggle/true"),
            format!("DELETE {ENVIRONMENT}/dark-mode"),
            "GET /".to_owned(),
            "GET /may-it".to_owned(),
        ] {
            let (answered, answer) = proxy.send(&line, &presented, "").await;
            assert!([403, 404].contains(&answered), "{name} {line}: {answer}");
        }
        assert_eq!(api.requests(), before + 1, "{name}: nothing else came to the API");

        deactivate(&owner, &id).await;
        assert_eq!(proxy.toggle("dark-mode", &presented).await, 403, "{name}");
        assert_eq!(api.requests(), before + 1, "{name}");
    }
}

/// What a client writes into headers that are the gateway's. Tried: the Caddyfile without `header_up X-FeatBit-…`, nginx.conf
/// without `proxy_set_header X-FeatBit-…` and without that of `X-Forwarded-For`; a JWT answered without the identity's headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_smuggles_nothing_past_them() {
    let (app, api, proxies) = behind_proxies().await;
    let owner = app.owner();
    let (id, secret) = owner.service_token("bot", "ToggleFlag", IN_PROD).await;
    let jwt = format!(
        "Bearer {}",
        jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5))
    );
    let allowed = "project/web:env/prod:flag/dark-mode";
    let from_elsewhere = json!({ "name": "office", "type": "Service", "allowedIps": ["203.0.113.0/24"],
                                 "permissions": [statement("allow", "ToggleFlag", IN_PROD)] });
    let (_, office) = owner.token(from_elsewhere).await;
    for proxy in &proxies {
        let name = proxy.name;
        let smuggled = [
            ("authorization", secret.as_str()),
            ("x-featbit-action", "ToggleFlag"),
            ("x-featbit-resource", allowed),
            ("x-gateway-key", "another"),
            ("x-token-id", "00000000-0000-0000-0000-000000000001"),
        ];
        let before = api.requests();
        for line in [
            "GET /api/v1/workspaces",
            "PUT /",
            "DELETE /api/v1/envs/x/feature-flags/dark-mode",
        ] {
            let (answered, answer) = proxy.send(line, &smuggled, "").await;
            assert_eq!(answered, 403, "{name} {line}: {answer}");
        }
        assert_eq!(api.requests(), before, "{name}");
        // Where it may, it is what the gateway says that counts, and reaches the API.
        assert_eq!(proxy.toggle("dark-mode", &smuggled).await, 200, "{name}");
        assert_eq!(api.last("x-token-id"), Some(id.clone()), "{name}");
        // FeatBit's page passes, and is no token.
        let page = [
            ("authorization", jwt.as_str()),
            ("x-token-id", "00000000-0000-0000-0000-000000000001"),
            ("x-organization-id", "00000000-0000-0000-0000-000000000001"),
        ];
        for line in [
            "GET /api/v1/workspaces".to_owned(),
            format!("PUT {ENVIRONMENT}/dark-mode/toggle/true"),
        ] {
            let (answered, answer) = proxy.send(&line, &page, "").await;
            assert_eq!(answered, 200, "{name} {line}: {answer}");
            for identity in ["x-token-id", "x-organization-id"] {
                let reached = api.last(identity).unwrap_or_default();
                assert_eq!(reached.trim(), "", "{name} {line}: {identity}");
            }
        }
        // Who says where it is, is not believed.
        let spoofed = [
            ("authorization", office.as_str()),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-real-ip", "203.0.113.7"),
        ];
        assert_eq!(proxy.toggle("dark-mode", &spoofed).await, 403, "{name}");
        // Two tokens are none.
        let before = api.requests();
        let twice = [
            ("authorization", secret.as_str()),
            ("authorization", office.as_str()),
        ];
        let answered = proxy.toggle("dark-mode", &twice).await;
        assert!([400, 401].contains(&answered), "{name}: {answered}");
        assert_eq!(api.requests(), before, "{name}");
    }
}

/// A path that the proxy and the API may read differently comes to neither. Tried: without the look at the path, in both.
#[tokio::test(flavor = "multi_thread")]
async fn an_odd_path_does_not_come_to_the_api() {
    let (app, api, proxies) = behind_proxies().await;
    let (_, secret) = app.owner().personal_token("everything").await;
    let presented = [("authorization", secret.as_str())];
    for proxy in &proxies {
        let name = proxy.name;
        assert_eq!(proxy.toggle("dark-mode", &presented).await, 200, "{name}");
        let in_query = format!("PUT {ENVIRONMENT}/dark-mode/toggle/true?/../%2F;//");
        let (answered, answer) = proxy.send(&in_query, &presented, "").await;
        assert_eq!(answered, 200, "{name}: {answer}");
        let before = api.requests();
        for flag in [
            "a%2F..%2Fdark-mode",
            "a/../dark-mode",
            "a/./dark-mode",
            "./dark-mode",
            "a//dark-mode",
            "dark-mode;x=1",
            "dark%2Dmode",
            "dark-mode%00",
            "dark-mode%3Bbeta",
            "a\\..\\dark-mode",
            "dark:mode",
            "dark,mode",
            "*",
            "dark*",
        ] {
            let answered = proxy.toggle(flag, &presented).await;
            assert!([400, 403, 404].contains(&answered), "{name} {flag}: {answered}");
        }
        assert_eq!(api.requests(), before, "{name}");
    }
}

/// The README shows of them what they are. Tried: a line changed.
#[test]
fn the_readme_shows_lines_of_these_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let readme = read("README.md");
    for (language, path) in [
        ("nginx", "docs/gateways/nginx.conf"),
        ("caddyfile", "docs/gateways/Caddyfile"),
    ] {
        let file = read(path);
        let fenced = readme.split_once(&format!("```{language}\n")).unwrap().1;
        let (shown, _) = fenced.split_once("```").unwrap();
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        for line in shown.lines() {
            assert!(lines.contains(&line.trim()), "{path} has no line {line:?}");
        }
    }
}

/// The body goes to the API and not along with the question. And when nobody answers that, nothing passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_passes_and_without_an_answer_nothing_does() {
    let (app, api, proxies) = behind_proxies().await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", IN_PROD).await;
    let presented = [("authorization", secret.as_str())];
    let body = "x".repeat(600 * 1024);
    let line = format!("PUT {ENVIRONMENT}/dark-mode/toggle/true");
    for proxy in &proxies {
        let (answered, answer) = proxy.send(&line, &presented, &body).await;
        assert_eq!(answered, 200, "{}: {answer}", proxy.name);
        assert_eq!(api.last("content-length"), Some(body.len().to_string()));
    }
    let ahead = [
        ("authorization", secret.as_str()),
        ("x-at-least-position", "1000000000"),
    ];
    let before = api.requests();
    for proxy in &proxies {
        let (answered, answer) = proxy.send(&line, &ahead, "").await;
        assert_eq!(
            (answered, header(&answer, "retry-after")),
            (503, Some("1".to_owned()))
        );
    }
    app.stop().await;
    for proxy in &proxies {
        let (answered, answer) = proxy.send(&line, &presented, "").await;
        assert!((500..=599).contains(&answered), "{}: {answer}", proxy.name);
    }
    assert_eq!(api.requests(), before);
}

/// Traefik (3, ForwardAuth) asks by GET, with the client's headers and its own; Envoy (1.3x, ext_authz over HTTP) by the
/// request's method at its path, with no body. Each sets what is asked by a header of its own making.
#[tokio::test(flavor = "multi_thread")]
async fn traefik_and_envoy_are_answered_as_they_ask() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", IN_PROD).await;
    for (authorization, expected) in [(secret.as_str(), 200), ("api-p_nobody", 401)] {
        let asked = |request: reqwest::RequestBuilder| {
            request
                .header("authorization", authorization)
                .header("x-featbit-action", "ToggleFlag")
                .header("x-featbit-resource", "project/web:env/prod:flag/dark-mode")
        };
        let traefik = asked(app.request(Method::GET, "/forward-auth"))
            .header("x-forwarded-method", "PUT")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "featbit.example")
            .header(
                "x-forwarded-uri",
                "/api/v1/envs/x/feature-flags/dark-mode/toggle/true?a=b",
            )
            .header("x-forwarded-for", "203.0.113.7")
            .header("accept-encoding", "gzip");
        let envoy = asked(app.request(
            Method::PUT,
            "/forward-auth/api/v1/envs/x/feature-flags/dark-mode/toggle/true?a=b",
        ))
        .header("content-length", "0")
        .header("x-envoy-expected-rq-timeout-ms", "200")
        .header("x-forwarded-proto", "https");
        for request in [traefik, envoy] {
            assert_eq!(Answer::of(request).await.status, expected);
        }
    }
}
