//! From the name that people gave a cluster to the id that everything is kept under.

/// The id of a name: its ASCII letters, in lower case, and digits; one hyphen for
/// whatever stands between them. Empty where there are none.
///
/// An id is its own slug, so a name and its id can be used alike.
#[must_use]
pub fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words {
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.extend(word.chars().map(|c| c.to_ascii_lowercase()));
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_ids() {
        for (name, id) in [
            ("Prod EU", "prod-eu"),
            ("prod-eu", "prod-eu"),
            ("  Prod -- EU (2)! ", "prod-eu-2"),
            ("prod_eu.1/x", "prod-eu-1-x"),
            ("Zürich", "z-rich"),
            ("7", "7"),
            // Lower case in Unicode would make an ASCII "k" of the Kelvin sign.
            ("\u{212a}8s", "8s"),
            ("", ""),
            ("–", ""),
            ("東京", ""),
        ] {
            assert_eq!(slug(name), id, "{name:?}");
            assert_eq!(slug(id), id, "an id is its own slug");
        }
    }
}
