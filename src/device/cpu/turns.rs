//! Turns: who wants something that one thread has at a time gets it in the order of coming, or gives up waiting.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often those who wait look whether they still want to.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Default)]
pub struct Turns {
    queue: Mutex<Queue>,
    next: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Numbers of those who wait, behind the one whose turn it is.
    numbers: VecDeque<u64>,
    last: u64,
}

/// A turn, until dropped.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn; None once `give_up` says so.
    pub fn wait(&self, give_up: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut queue = self.lock();
        queue.last += 1;
        let number = queue.last;
        queue.numbers.push_back(number);
        while queue.numbers.front() != Some(&number) {
            if give_up() {
                queue.numbers.retain(|other| *other != number);
                return None;
            }
            queue = self.next.wait_timeout(queue, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Turn(self))
    }

    /// The queue is whole at any moment: a panic elsewhere cannot have spoilt it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.numbers.pop_front();
        if !queue.numbers.is_empty() {
            self.0.next.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn turns_exclude_one_another_and_come_in_order() {
        let turns = Turns::default();
        let (inside, order) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let first = turns.wait(|| false).unwrap();
        std::thread::scope(|scope| {
            for i in 0..5 {
                let (turns, inside, order) = (&turns, &inside, &order);
                scope.spawn(move || {
                    let _turn = turns.wait(|| false).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().unwrap().push(i);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                while turns.lock().numbers.len() != i + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(turns.lock().numbers.is_empty());
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let turns = Turns::default();
        let first = turns.wait(|| true).expect("nobody to wait for");
        let gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.wait(|| gone.load(Ordering::SeqCst)).is_none());
            while turns.lock().numbers.len() != 2 {
                std::thread::yield_now();
            }
            let behind = scope.spawn(|| turns.wait(|| false).is_some());
            while turns.lock().numbers.len() != 3 {
                std::thread::yield_now();
            }
            gone.store(true, Ordering::SeqCst);
            assert!(waiting.join().unwrap());
            drop(first);
            assert!(behind.join().unwrap());
        });
        assert!(turns.lock().numbers.is_empty());
    }
}
