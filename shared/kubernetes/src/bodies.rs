//! Bodies in memory: each has a bound, and all of them together have one.

use std::sync::Arc;

use memmap2::MmapMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest bound that a single body may be given.
pub(crate) const LARGEST: usize = 8 * 1024 * 1024;

/// All bodies that share, as long as they fit.
const SHARED: usize = 8 * 1024 * 1024;

/// With how much a body begins. An ordinary answer is smaller; so 128 of them are
/// read side by side, and nobody waits.
const FIRST: usize = 64 * 1024;

/// How much of an announced length is taken at once: a body need not be copied as it
/// grows, nor a small one hold much. No more, for an announcement costs a server nothing.
const ANNOUNCED: usize = 512 * 1024;

/// The memory for bodies, 16 MiB over all targets.
///
/// It can't deadlock: a body that must wait while it grows waits for either half,
/// and who has the other half needs nothing more, because the largest body there
/// is fits into it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    shared: Arc<Semaphore>,
    /// For one body at a time, which found the shared half used up while it grew.
    overflow: Arc<Semaphore>,
}

/// A body that is being read, and its share of the memory, given back on drop.
#[derive(Debug)]
pub(crate) struct Body {
    room: Room,
    bound: usize,
    budget: Budget,
    shared: OwnedSemaphorePermit,
    overflow: Option<OwnedSemaphorePermit>,
}

/// Where a body's bytes lie.
///
/// A large one has a mapping of its own, of which only what is filled takes
/// memory, and which goes back to the system as a whole. On the heap forty of them
/// that grow side by side leave holes of every size: twice what they hold.
#[derive(Debug)]
enum Room {
    Small(Vec<u8>),
    Large { map: MmapMut, filled: usize },
}

impl Room {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large { map, filled } => map.get(..*filled).unwrap_or_default(),
        }
    }

    /// The chunk and what was there fit into the bound; so much memory is held for them.
    fn append(&mut self, chunk: &[u8], bound: usize, held: usize) {
        match self {
            Self::Small(bytes) => {
                let needed = bytes.len() + chunk.len();
                // Where the system gives no mapping, the heap has to do.
                let map = (needed > FIRST).then(|| MmapMut::map_anon(bound).ok()).flatten();
                if let Some(map) = map {
                    let before = std::mem::take(bytes);
                    *self = Self::Large { map, filled: 0 };
                    self.append(&before, bound, held);
                    self.append(chunk, bound, held);
                } else {
                    let room = if needed > FIRST { needed.next_power_of_two() } else { held.min(FIRST) };
                    bytes.reserve_exact(room.min(bound).max(needed) - bytes.len());
                    bytes.extend_from_slice(chunk);
                }
            }
            Self::Large { map, filled } => {
                let end = *filled + chunk.len();
                if let Some(free) = map.get_mut(*filled..end) {
                    free.copy_from_slice(chunk);
                    *filled = end;
                }
            }
        }
    }
}

/// The body is larger than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Budget {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Semaphore::new(SHARED)), overflow: Arc::new(Semaphore::new(1)) }
    }

    /// An empty body; waits where very many are being read. `announced` is its length,
    /// where the server says it.
    pub(crate) async fn begin(&self, bound: usize, announced: Option<u64>) -> Body {
        debug_assert!(bound <= LARGEST);
        let announced = announced.map(|length| usize::try_from(length).unwrap_or(ANNOUNCED).min(ANNOUNCED));
        let first = announced.unwrap_or(FIRST).min(bound);
        Body {
            room: Room::Small(Vec::new()),
            bound,
            budget: self.clone(),
            shared: acquire(&self.shared, first).await,
            overflow: None,
        }
    }
}

impl Body {
    /// Appends what came; waits where the memory is used up.
    pub(crate) async fn push(&mut self, chunk: &[u8]) -> Result<(), TooLarge> {
        let needed =
            self.bytes().len().checked_add(chunk.len()).filter(|n| *n <= self.bound).ok_or(TooLarge)?;
        while self.overflow.is_none() && needed > self.shared.num_permits() {
            // Doubling, as a vector does, so that there are few steps.
            let held = self.shared.num_permits();
            let more = held.max(1).min(self.bound - held);
            tokio::select! {
                biased;
                permit = acquire(&self.budget.shared, more) => self.shared.merge(permit),
                permit = acquire(&self.budget.overflow, 1) => self.overflow = Some(permit),
            }
        }
        self.room.append(chunk, self.bound, self.shared.num_permits());
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.room.bytes()
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: usize) -> OwnedSemaphorePermit {
    let count = u32::try_from(permits).unwrap_or(u32::MAX);
    match Arc::clone(semaphore).acquire_many_owned(count).await {
        Ok(permit) => permit,
        // Only a closed semaphore refuses, and nobody closes these.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn free(budget: &Budget) -> (usize, usize) {
        (budget.shared.available_permits(), budget.overflow.available_permits())
    }

    #[tokio::test]
    async fn a_body_ends_at_its_bound() {
        let budget = Budget::new();
        let mut body = budget.begin(10, None).await;
        assert_eq!(body.push(b"12345").await, Ok(()));
        assert_eq!(body.push(b"67890").await, Ok(()));
        assert_eq!(body.push(b"1").await, Err(TooLarge));
        assert_eq!(body.bytes(), b"1234567890");
        drop(body);
        assert_eq!(free(&budget), (SHARED, 1));
    }

    #[tokio::test]
    async fn a_hundred_small_bodies_are_read_side_by_side() {
        let budget = Budget::new();
        let mut bodies = Vec::new();
        for _ in 0..100 {
            let mut body = timeout(LIMIT, budget.begin(LARGEST, None)).await.unwrap();
            timeout(LIMIT, body.push(&[0; FIRST])).await.unwrap().unwrap();
            bodies.push(body);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn forty_bodies_of_the_largest_size_all_end_and_memory_is_kept() {
        let budget = Budget::new();
        let read = |budget: Budget| async move {
            let mut body = budget.begin(LARGEST, None).await;
            for _ in 0..LARGEST / 65_536 {
                body.push(&[1; 65_536]).await.unwrap();
                tokio::task::yield_now().await;
            }
            body.bytes().len()
        };
        let tasks: Vec<_> = (0..40).map(|_| tokio::spawn(read(budget.clone()))).collect();
        for task in tasks {
            assert_eq!(timeout(LIMIT, task).await.unwrap().unwrap(), LARGEST);
        }
        assert_eq!(free(&budget), (SHARED, 1));
    }

    #[tokio::test]
    async fn an_announced_length_is_taken_at_once_and_believed_only_so_far() {
        let budget = Budget::new();
        let mut small = budget.begin(LARGEST, Some(10)).await;
        small.push(&[0; 3]).await.unwrap();
        assert!(matches!(&small.room, Room::Small(bytes) if bytes.capacity() == 10));
        let huge = budget.begin(LARGEST, Some(u64::MAX)).await;
        assert_eq!(free(&budget).0, SHARED - 10 - ANNOUNCED);
        // Nothing breaks where more comes than was announced.
        small.push(&[0; FIRST]).await.unwrap();
        assert_eq!(small.bytes().len(), FIRST + 3);
        drop((small, huge, budget.begin(5, Some(0)).await));
        assert_eq!(free(&budget), (SHARED, 1));
    }

    #[tokio::test]
    async fn a_body_holds_what_came_and_no_more_than_it_was_given() {
        let budget = Budget::new();
        let mut body = budget.begin(LARGEST, None).await;
        let mut all = Vec::new();
        for (fill, size) in (1..).zip([1, 100, FIRST - 101, 1, 5, 300_000, 1_000_000, 3]) {
            let chunk = vec![fill; size];
            body.push(&chunk).await.unwrap();
            all.extend_from_slice(&chunk);
            assert!(body.bytes() == all, "{size}");
            assert!(all.len() <= body.shared.num_permits(), "{size}");
            assert_eq!(matches!(body.room, Room::Large { .. }), all.len() > FIRST);
        }
    }
}
