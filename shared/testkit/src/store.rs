//! The objects of the simulated cluster, some of them changing as time goes by.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

use crate::scenario::Secrets;

/// The resource version of a cluster to which nothing was written yet; the
/// recorded answers carry it.
const FIRST_VERSION: u64 = 2529;

/// Something that changes at given moments, and stays the same between them.
#[derive(Debug)]
pub(crate) struct Timeline<T> {
    origin: Timestamp,
    /// In milliseconds relative to the origin, in order, never empty.
    steps: Vec<(i64, T)>,
}

impl<T> Timeline<T> {
    pub(crate) fn constant(value: T) -> Self {
        Self { origin: Timestamp::UNIX_EPOCH, steps: vec![(0, value)] }
    }

    pub(crate) fn new(origin: Timestamp, steps: Vec<(i64, T)>) -> Self {
        Self { origin, steps }
    }

    /// What it is at this moment; before the first step, the first.
    fn at(&self, now: Timestamp) -> Option<&T> {
        let elapsed = now.as_millisecond() - self.origin.as_millisecond();
        let past = self.steps.partition_point(|(at, _)| *at <= elapsed);
        self.steps.get(past.saturating_sub(1)).map(|(_, value)| value)
    }
}

type Key = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Store {
    writes: u64,
    helm_releases: BTreeMap<Key, Timeline<Option<Arc<Value>>>>,
    secrets: BTreeMap<Key, Timeline<Arc<Secrets>>>,
    others: BTreeMap<(String, String, String, String), Arc<Value>>,
}

impl Store {
    pub(crate) fn put_helm_release(
        &mut self,
        namespace: &str,
        name: &str,
        timeline: Timeline<Option<Arc<Value>>>,
    ) {
        self.writes += 1;
        self.helm_releases.insert((namespace.to_owned(), name.to_owned()), timeline);
    }

    pub(crate) fn put_secrets(&mut self, namespace: &str, release: &str, timeline: Timeline<Arc<Secrets>>) {
        self.writes += 1;
        self.secrets.insert((namespace.to_owned(), release.to_owned()), timeline);
    }

    pub(crate) fn put_other(
        &mut self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        object: Value,
    ) {
        self.writes += 1;
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.others.insert(key, Arc::new(object));
    }

    pub(crate) fn remove(&mut self, namespace: &str, name: &str) {
        self.writes += 1;
        let key = (namespace.to_owned(), name.to_owned());
        self.helm_releases.remove(&key);
        self.secrets.remove(&key);
    }

    /// A new version, without a change.
    pub(crate) fn advance(&mut self) -> u64 {
        self.writes += 1;
        self.version()
    }

    pub(crate) fn version(&self) -> u64 {
        FIRST_VERSION + self.writes
    }

    pub(crate) fn helm_release(&self, namespace: &str, name: &str, now: Timestamp) -> Option<Arc<Value>> {
        self.helm_releases.get(&(namespace.to_owned(), name.to_owned()))?.at(now)?.clone()
    }

    /// Those of one namespace, or of all where it is empty.
    pub(crate) fn helm_releases(&self, namespace: &str, now: Timestamp) -> Vec<Arc<Value>> {
        let within = self.helm_releases.iter().filter(|((it, _), _)| namespace.is_empty() || it == namespace);
        within.filter_map(|(_, it)| it.at(now)?.clone()).collect()
    }

    /// Helm's secrets, by release: of one namespace, or of all where it is empty.
    pub(crate) fn secrets(&self, namespace: &str, now: Timestamp) -> Vec<(&String, Arc<Secrets>)> {
        let within = self.secrets.iter().filter(|((it, _), _)| namespace.is_empty() || it == namespace);
        within.filter_map(|((_, release), it)| Some((release, it.at(now).cloned()?))).collect()
    }

    pub(crate) fn other(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Value>> {
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.others.get(&key).cloned()
    }

    pub(crate) fn serves(&self, group: &str, resource: &str) -> bool {
        self.others.keys().any(|(its_group, its_resource, ..)| its_group == group && its_resource == resource)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn between_two_steps_it_stays() {
        let origin = Timestamp::UNIX_EPOCH;
        let timeline = Timeline::new(origin, vec![(-500, 'a'), (10, 'b'), (10, 'c'), (700, 'd')]);
        let at = |millis| timeline.at(origin + SignedDuration::from_millis(millis)).copied();
        assert_eq!(at(-60_000), Some('a'));
        assert_eq!(at(0), Some('a'));
        assert_eq!(at(10), Some('c'));
        assert_eq!(at(699), Some('c'));
        assert_eq!(at(9_000), Some('d'));
    }
}
