// The threads of one context, and the memory that its kernels reuse from call to call.
//
// The kernels of every instruction set call this class; its code is compiled once, for the plainest
// set. So nothing here is inline except templates over a caller's own lambda.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace gr {

// One growing buffer each. A kernel may use its slots until it returns.
enum class Scratch {
  kNormed,      // rows after the norm
  kRowTiles,    // how rows are cut
  kProducts,    // the matrices of one parallel phase
  kPackedRows,  // rows in the order the matmul reads them
  kGateUp,
  kSwiglu,
  kAttentionRows,
  kAttentionSplits,
  kAttentionTasks,
  kAttentionThreads,
  kElementwise,
  kQkv,
  kAttended,
  kRouting,  // which expert takes which row
  kGroupedRows,
  kExpertRows,
  kCount
};

class ThreadPool {
 public:
  // The caller of `run` is thread 0; num_threads - 1 more are started. `cpus` [num_threads] or
  // null: the CPUs to pin them to (entry 0 is not used). Throws std::exception where a thread
  // cannot start or cannot be pinned.
  ThreadPool(int num_threads, const int32_t* cpus);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls task(index) for every index in [0, count), in any order, and returns when all are done.
  // Everything a task wrote is then visible to all tasks of the next phase. Tasks must not throw
  // and must not call `run`.
  template <class Task>
  void run(int64_t count, const Task& task) {
    run_chunks(count, 1, [&task](int64_t begin, int64_t end, int) {
      for (int64_t index = begin; index < end; ++index) task(index);
    });
  }

  // As `run`, but calls task(begin, end, thread) for ranges of `chunk` indices; begin is a multiple
  // of chunk, and thread is in [0, num_threads).
  template <class Task>
  void run_chunks(int64_t count, int64_t chunk, const Task& task) {
    run_ranges(
        count, chunk,
        [](const void* argument, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Task*>(argument))(begin, end, thread);
        },
        &task);
  }

  // At least `bytes` bytes, 64-byte aligned, with unknown contents; what an earlier call returned
  // for this slot is lost. Only between phases. Throws std::bad_alloc.
  void* scratch(Scratch slot, size_t bytes);

 private:
  using Range = void (*)(const void* argument, int64_t begin, int64_t end, int thread);
  struct State;

  void run_ranges(int64_t count, int64_t chunk, Range range, const void* argument);

  State* state_;
};

}  // namespace gr
