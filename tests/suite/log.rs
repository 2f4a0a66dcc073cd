//! The log.
use crate::support::TestApp;
#[tokio::test]
async fn x() {
    let a = TestApp::start().await;
    let (_, s) = a.developer().personal_token("a").await;
    println!("{}", a.ask(&s, "ToggleFlag", "project/a:env/b:flag/c").await);
    a.stop().await;
}
