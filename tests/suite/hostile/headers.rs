//! Headers: too large, and what is no HTTP.

use super::*;

/// Names, values, four bytes for each header, and the path. Tried: `MAX_HEADERS` one higher, and one lower.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_16_kib_are_taken_and_one_byte_more_is_not() {
    let app = TestApp::start().await;
    let owner = app.owner();
    nothing_comes_of(&app, async || {
        let line = "GET /api/v1/access-tokens";
        let bare = head(&owner, line, "");
        let first = bare.split_once("\r\n").unwrap().0;
        // As counted: without the line of the request and the blank one, but with the path.
        let counted = bare.len() - first.len() - 4 + "/api/v1/access-tokens".len();
        let filler = 16 * KIB - counted - "filler: \r\n".len();
        for (size, status) in [(filler, 200), (filler + 1, 413)] {
            let answer = send(
                &app,
                head(&owner, line, &format!("filler: {}\r\n", "x".repeat(size))).as_bytes(),
            )
            .await;
            assert_eq!(answer.status, status, "{}", answer.body);
            assert!(
                status == 200 || answer.body == errors(&["PayloadTooLarge"]),
                "{}",
                answer.body
            );
        }
        for path in ["/access/v1/evaluation", "/health/readiness", "/nowhere"] {
            let request = app
                .request(Method::POST, path)
                .header("filler", "x".repeat(17 * KIB));
            assert_eq!(Answer::of(request).await.status, 413, "{path}");
        }
        let long_query = format!("/access-tokens?name={}", "x".repeat(17 * KIB));
        assert_eq!(owner.get(&long_query).await.status, 413);
        // Past what the HTTP library reads at all it answers itself, and hangs up.
        let endless = head(&owner, line, &format!("filler: {}\r\n", "x".repeat(300 * KIB)));
        assert_eq!(send(&app, endless.as_bytes()).await.status, 413);
        let many = head(&owner, line, &"a: b\r\n".repeat(200));
        assert_eq!(send(&app, many.as_bytes()).await.status, 431);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused_and_closed() {
    let app = TestApp::start().await;
    let owner = app.owner();
    nothing_comes_of(&app, async || {
        for bytes in [
            "\r\n\r\nhello\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nnul: a\0b\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "\u{16}\u{3}\u{1}\u{0}\u{0}\r\n\r\n",
        ] {
            assert_eq!(send(&app, bytes.as_bytes()).await.status, 400, "{bytes:?}");
        }
        // Chunks that are none: the body breaks off, and that is an invalid body.
        let chunked = head(
            &owner,
            "POST /api/v1/access-tokens",
            "transfer-encoding: chunked\r\n",
        );
        assert_eq!(
            send(&app, format!("{chunked}zz\r\n").as_bytes()).await.status,
            400
        );
        // Who leaves in the middle of a body is gone.
        let half = head(&owner, "POST /api/v1/access-tokens", "content-length: 100\r\n");
        let mut connection = TcpStream::connect(app.app.address).await.unwrap();
        connection
            .write_all(format!("{half}{{\"name\":").as_bytes())
            .await
            .unwrap();
        drop(connection);
    })
    .await;
}
