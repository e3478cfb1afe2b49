//! Memory for what the program itself keeps.
//!
//! Where the C library is musl it is not that library's: for nearly every buffer that grows, its
//! allocator asks the kernel, by which a start and large answers would take half as long again.

use std::alloc::{GlobalAlloc, Layout};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

/// One heap behind a lock: nearly all that is allocated often is by the same thread.
struct Allocator(Mutex<Dlmalloc>);

impl fmt::Debug for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocator").finish_non_exhaustive()
    }
}

#[cfg_attr(not(any(test, target_env = "musl")), expect(dead_code))]
impl Allocator {
    const fn new() -> Self {
        Self(Mutex::new(Dlmalloc::new()))
    }

    /// A panic cannot leave it locked: nothing panics while it is.
    fn heap(&self) -> MutexGuard<'_, Dlmalloc> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the heap keeps these promises as long as one thread at a time uses it, and each block comes
// back to the heap that it is from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the heap asks for is what the caller has promised.
        unsafe { self.heap().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { self.heap().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { self.heap().free(block, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe {
            self.heap()
                .realloc(block, layout.size(), layout.align(), size)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// A block, each of whose bytes is `tag`.
    struct Block<'a> {
        heap: &'a Allocator,
        start: *mut u8,
        layout: Layout,
        tag: u8,
    }

    impl<'a> Block<'a> {
        fn new(heap: &'a Allocator, layout: Layout, tag: u8) -> Self {
            let zeroed = tag.is_multiple_of(2);
            // SAFETY: the layout is not empty, and the block is as long as it says.
            let start = unsafe {
                if zeroed {
                    let start = heap.alloc_zeroed(layout);
                    let bytes = std::slice::from_raw_parts(start, layout.size());
                    assert!(bytes.iter().all(|byte| *byte == 0));
                    start
                } else {
                    heap.alloc(layout)
                }
            };
            assert!(!start.is_null() && start.addr() % layout.align() == 0);
            let block = Self {
                heap,
                start,
                layout,
                tag,
            };
            // SAFETY: the block is so long.
            unsafe { start.write_bytes(tag, layout.size()) };
            block
        }

        fn resize(&mut self, size: usize) {
            let kept = self.layout.size().min(size);
            let layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            // SAFETY: the block is from this heap and has this layout; the new size is not zero.
            self.start = unsafe { self.heap.realloc(self.start, self.layout, size) };
            self.layout = layout;
            self.check(kept);
            // SAFETY: the block is so long.
            unsafe { self.start.write_bytes(self.tag, size) };
        }

        fn check(&self, count: usize) {
            // SAFETY: the block is not shorter, and all of it was written.
            let bytes = unsafe { std::slice::from_raw_parts(self.start, count) };
            assert!(bytes.iter().all(|byte| *byte == self.tag));
        }
    }

    impl Drop for Block<'_> {
        fn drop(&mut self) {
            self.check(self.layout.size());
            // SAFETY: the block is from this heap, has this layout, and nobody else has it.
            unsafe { self.heap.dealloc(self.start, self.layout) };
        }
    }

    fn layouts() -> impl Strategy<Value = Layout> {
        let size = prop_oneof![1_usize..300, 300_usize..100_000, 200_000_usize..1_000_000];
        (size, 0_u32..13)
            .prop_map(|(size, shift)| Layout::from_size_align(size, 1 << shift).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_keep_what_is_in_them(
            layouts in prop::collection::vec(layouts(), 1..40),
            sizes in prop::collection::vec(1_usize..300_000, 40),
        ) {
            let heap = Allocator::new();
            let mut blocks: Vec<_> = (1..)
                .zip(&layouts)
                .map(|(tag, layout)| Block::new(&heap, *layout, tag))
                .collect();
            for (block, size) in blocks.iter_mut().step_by(2).zip(&sizes) {
                block.resize(*size);
            }
            let others = blocks.split_off(blocks.len() / 2);
            drop(blocks);
            for block in &others {
                block.check(block.layout.size());
            }
        }
    }

    #[test]
    fn threads_share_a_heap() {
        let heap = Allocator::new();
        thread::scope(|scope| {
            for tag in 0..4 {
                let heap = &heap;
                scope.spawn(move || {
                    for round in 1..2000 {
                        let layout = Layout::from_size_align(round * 7 % 5000 + 1, 8).unwrap();
                        let mut block = Block::new(heap, layout, tag);
                        block.resize(round * 13 % 9000 + 1);
                    }
                });
            }
        });
    }
}
