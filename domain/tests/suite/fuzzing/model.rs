//! FeatBit's rules as their description has them (`FEATBIT.md`, "Policy algebra", and what the contract says of revocations
//! and of the older group names), word for word, on plain text. Written without a look at the code it is held against, and
//! uses nothing of it.

/// A statement or a revocation, as a producer writes it.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Statement {
        id: String,
        resource_type: String,
        effect: String,
        actions: Vec<String>,
        resources: Vec<String>,
    },
    Revocation {
        permission: String,
        resources: Option<Vec<String>>,
    },
}

/// What the rules say, and the id of the first statement that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Allow(String),
    Deny(String),
    Nothing,
}

/// "Matched = statements whose resourceType is `*`, or which have an action `*` or equal to the permission and a resource
/// pattern that matches. Nothing matched: deny. Otherwise allow if and only if every matched statement's effect is exactly
/// `allow`." A revocation: an earlier allow no longer counts as matched.
pub(super) fn decide(entries: &[Entry], resource: &str, permission: &str) -> Said {
    let mut matched: Vec<(&str, &str)> = Vec::new();
    for entry in entries {
        match entry {
            Entry::Statement {
                id,
                resource_type,
                effect,
                actions,
                resources,
            } => {
                let has_action = actions
                    .iter()
                    .any(|action| is_about(action, permission, resource));
                let has_resource = resources.iter().any(|pattern| is_match(resource, pattern));
                if resource_type == "*" || (has_action && has_resource) {
                    matched.push((id, effect));
                }
            }
            Entry::Revocation {
                permission: taken,
                resources,
            } => {
                let is_here = match resources {
                    None => true,
                    Some(patterns) => patterns.iter().any(|pattern| is_match(resource, pattern)),
                };
                if is_here && is_about(taken, permission, resource) {
                    matched.retain(|(_, effect)| *effect != "allow");
                }
            }
        }
    }
    if let Some((id, _)) = matched.iter().find(|(_, effect)| *effect != "allow") {
        return Said::Deny((*id).to_owned());
    }
    match matched.first() {
        Some((id, _)) => Said::Allow((*id).to_owned()),
        None => Said::Nothing,
    }
}

/// An action: `*`, the permission itself, or an older group name, which is every action on resources whose last segment is of
/// one type.
fn is_about(action: &str, permission: &str, resource: &str) -> bool {
    let last = resource.split(':').next_back().unwrap_or_default();
    let is_group_of = |kind: &str| last.starts_with(&format!("{kind}/"));
    action == "*"
        || action == permission
        || match action {
            "ManageFeatureFlag" => is_group_of("flag"),
            "ManageSegment" => is_group_of("segment"),
            "ManageProject" => is_group_of("project"),
            "AccessEnvs" => is_group_of("env"),
            _ => false,
        }
}

/// "Either empty: false. Split both on `:`. The pattern may have fewer segments than the resource, never more. Per segment,
/// path is what stands before the first `;`: the pattern's path is a glob. If the pattern's segment has tags (non-empty): some
/// pattern tag must glob some tag of the resource's segment; a resource without tags fails."
fn is_match(resource: &str, pattern: &str) -> bool {
    if resource.is_empty() || pattern.is_empty() {
        return false;
    }
    let resources: Vec<&str> = resource.split(':').collect();
    let patterns: Vec<&str> = pattern.split(':').collect();
    patterns.len() <= resources.len()
        && patterns.iter().zip(&resources).all(|(pattern, resource)| {
            let (pattern, pattern_tags) = parts(pattern);
            let (resource, resource_tags) = parts(resource);
            let has_tag = pattern_tags.iter().any(|wanted| {
                resource_tags
                    .iter()
                    .any(|tag| is_glob_of(&letters(wanted), &letters(tag)))
            });
            is_glob_of(&letters(pattern), &letters(resource)) && (pattern_tags.is_empty() || has_tag)
        })
}

/// The path, and the tags: what stands between the first `;` and the second, at commas.
fn parts(segment: &str) -> (&str, Vec<&str>) {
    let mut parts = segment.split(';');
    let path = parts.next().unwrap_or_default();
    let tags = parts.next().unwrap_or_default();
    let tags = if tags.is_empty() {
        Vec::new()
    } else {
        tags.split(',').collect()
    };
    (path, tags)
}

fn letters(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// "An anchored, case-sensitive glob in which `*` is any run of characters and everything else is literal. A `*` in the
/// resource is a literal character." Which beginnings of the text the glob so far may stand for, letter by letter.
fn is_glob_of(glob: &[char], text: &[char]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for wanted in glob {
        let mut next = vec![false; text.len() + 1];
        for place in 0..=text.len() {
            next[place] = if *wanted == '*' {
                reached[place] || (place > 0 && next[place - 1])
            } else {
                place > 0 && reached[place - 1] && text[place - 1] == *wanted
            };
        }
        reached = next;
    }
    reached[text.len()]
}
