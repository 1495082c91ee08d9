// SPDX-License-Identifier: MPL-2.0
//! Work on pictures that nothing else runs beside, on two threads.

/// What comes of items, in their order: the first half of them on another thread, if the process may have two. `of`: of some of them.
pub fn in_halves<T: Sync, R: Send>(items: &[T], of: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    if tch::get_num_threads() < 2 || items.len() < 2 {
        return of(items);
    }
    let (first, second) = items.split_at(items.len() / 2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| of(first));
        let second = of(second);
        let mut both = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        both.extend(second);
        both
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_items_is_in_their_order() {
        for count in 0..6 {
            let items: Vec<usize> = (0..count).collect();
            let doubled = in_halves(&items, |items| items.iter().map(|item| 2 * item).collect());
            assert_eq!(doubled, items.iter().map(|item| 2 * item).collect::<Vec<_>>());
        }
    }
}
