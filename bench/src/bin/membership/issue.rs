//! Makes personal tokens of members who may, over HTTP, as they would themselves.

use std::error::Error;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use bench::membership::Story;

use crate::print;

/// How long the JWTs live.
const LIFE: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    story: Story,
    /// The node that is asked
    #[arg(long)]
    url: String,
    /// Signs the members' JWTs
    #[arg(long, env = "JWT_KEY")]
    jwt_key: String,
    /// How many tokens, each of another member
    #[arg(long, default_value_t = 100)]
    count: usize,
}

impl Issue {
    /// Prints a line for each: the member's number in the story, the secret.
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        let client = reqwest::Client::new();
        for member in 0..self.count.min(self.story.members) {
            let id = self.story.member(member);
            let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + LIFE;
            let claims =
                json!({ "id": id, "iss": "featbit", "aud": "featbit-api", "exp": expires.as_secs() });
            let key = EncodingKey::from_secret(self.jwt_key.as_bytes());
            let answer: Value = client
                .post(format!("{}/api/v1/access-tokens", self.url))
                .bearer_auth(encode(&Header::default(), &claims, &key)?)
                .header("Organization", self.story.organization(member).to_string())
                .json(&json!({ "name": format!("soak {member}"), "type": "Personal" }))
                .send()
                .await?
                .json()
                .await?;
            let secret = answer.pointer("/data/token").and_then(Value::as_str);
            let secret = secret.ok_or_else(|| format!("member {member} got no token: {answer}"))?;
            print(&format!("{member} {secret}"))?;
        }
        Ok(())
    }
}
