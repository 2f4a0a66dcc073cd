//! The page that shows the document.

use super::*;
use crate::support::Answer;

/// Without a network but the way to the service. Tried: the files' paths left as Swagger UI has them, relative to `/`.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_made_of_nothing_but_this_service() {
    let app = TestApp::start().await;
    let page = Answer::of(app.request(Method::GET, "/docs")).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'self';"),
        "its browser loads nothing from elsewhere"
    );
    for elsewhere in ["http:", "https:", "url(", "\"//"] {
        assert!(!page.text.contains(elsewhere), "{elsewhere}");
    }
    let mut files: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.text.split(attribute).skip(1))
        .filter_map(|rest| rest.split_once('"'))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(files.len(), 6, "{files:?}");
    assert!(page.text.contains("\"url\": \"/openapi.json\""), "{}", page.text);
    files.push("/openapi.json");
    for file in files {
        assert!(file.starts_with('/'), "{file}");
        let answer = Answer::of(app.request(Method::GET, file)).await;
        let media_type = answer
            .header("content-type")
            .split(';')
            .next()
            .unwrap_or_default();
        let expected = match file.rsplit_once('.').unwrap().1 {
            "css" => "text/css",
            "js" => "text/javascript",
            "png" => "image/png",
            _ => "application/json",
        };
        assert_eq!((answer.status, media_type), (200, expected), "{file}");
    }
    let nothing = Answer::of(app.request(Method::GET, "/docs/%ff")).await;
    assert_eq!((nothing.status, nothing.code()), (404, "ResourceNotFound"));
}
