#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace gr {
namespace {

// How long an idle thread looks for the next phase before it sleeps; phases of one forward pass
// follow each other within less, and waking a sleeping thread takes about as long.
constexpr std::chrono::microseconds kSpinTime(100);
constexpr int kSpinsPerClockRead = 64;
constexpr size_t kHugePage = size_t{2} << 20;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Calls done() until it holds, for at most `kSpinTime`; returns whether it held.
template <class Done>
bool spin_until(const Done& done) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < kSpinsPerClockRead; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() - start < kSpinTime);
  return false;
}

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
};

void pin(std::thread& thread, int32_t cpu) {
#if defined(__linux__)
  if (cpu < 0 || cpu >= CPU_SETSIZE)
    throw std::runtime_error("there is no CPU " + std::to_string(cpu));
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  const int problem = pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
  if (problem != 0) {
    throw std::system_error(problem, std::generic_category(),
                            "cannot pin a thread to CPU " + std::to_string(cpu));
  }
#else
  (void)thread;
  (void)cpu;
#endif
}

// A child of fork() has none of its parent's threads, so there the caller does all the work.
std::atomic<uint64_t> num_forks{0};

void count_forks() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { num_forks.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
}

// Blocks the signals that are sent from elsewhere in this thread, and so in those it starts, until
// the end of the scope: such signals are for the program's own threads.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (int own : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

// A phase is open while the low bit of `phase` is set. A thread joins an open phase by counting
// itself in, takes ranges until none is left, and counts itself out. The caller takes ranges too,
// then closes the phase and waits for those that joined: a thread that was asleep or not scheduled
// is not waited for.
struct ThreadPool::State {
  static constexpr uint64_t kOpen = 1;
  static constexpr uint64_t kMember = 2;  // bits 1..15 count the threads inside
  static constexpr uint64_t kMembers = 0xfffe;
  static constexpr uint64_t kNumber = uint64_t{1} << 16;  // bits 16.. number the phases

  alignas(64) std::atomic<uint64_t> phase{0};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) int64_t count = 0;  // of the open phase; written while nobody is inside
  int64_t chunk = 0;
  Range range = nullptr;
  const void* argument = nullptr;

  alignas(64) std::atomic<int> num_asleep{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> threads;
  std::array<Buffer, static_cast<size_t>(Scratch::kCount)> buffers;
  const uint64_t forks_before = num_forks.load();

  ~State() {
    stop();
    for (Buffer& buffer : buffers) free(buffer.data);
  }

  bool is_forked() const { return num_forks.load(std::memory_order_relaxed) != forks_before; }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  bool is_new(uint64_t last) const {
    const uint64_t now = phase.load();
    return ((now & kOpen) != 0 && now / kNumber != last) ||
           stopping.load(std::memory_order_relaxed);
  }

  void wait_for_phase_after(uint64_t last) {
    if (spin_until([&] { return is_new(last); })) return;
    std::unique_lock<std::mutex> lock(mutex);
    ++num_asleep;
    wake.wait(lock, [&] { return is_new(last); });
    --num_asleep;
  }

  // Counts this thread into the phase if that is still open.
  bool join(uint64_t* number) {
    uint64_t now = phase.load();
    while ((now & kOpen) != 0) {
      if (phase.compare_exchange_weak(now, now + kMember, std::memory_order_acquire)) {
        *number = now / kNumber;
        return true;
      }
    }
    return false;
  }

  void take_ranges(int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(1, std::memory_order_relaxed) * chunk;
      if (begin >= count) return;
      range(argument, begin, begin + chunk < count ? begin + chunk : count, thread);
    }
  }

  void work(int thread) {
    uint64_t last = 0;
    for (;;) {
      wait_for_phase_after(last);
      if (stopping.load()) return;
      if (!join(&last)) continue;
      take_ranges(thread);
      phase.fetch_sub(kMember, std::memory_order_release);
    }
  }

  void wake_sleepers() {
    if (num_asleep.load() == 0) return;
    {
      std::lock_guard<std::mutex> lock(mutex);
    }
    wake.notify_all();
  }

  bool is_empty() const { return (phase.load(std::memory_order_acquire) & kMembers) == 0; }
};

ThreadPool::ThreadPool(int num_threads, const int32_t* cpus) : state_(new State) {
  try {
    count_forks();
    const SignalsBlocked blocked;
    State* const state = state_;
    for (int thread = 1; thread < num_threads; ++thread) {
      state->threads.emplace_back([state, thread] { state->work(thread); });
      if (cpus != nullptr) pin(state->threads.back(), cpus[thread]);
    }
  } catch (...) {
    delete state_;
    throw;
  }
}

ThreadPool::~ThreadPool() {
  // In a child of fork() nothing of it can be ended: the threads that wait in it are not there.
  if (!state_->is_forked()) delete state_;
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::run_ranges(int64_t count, int64_t chunk, Range range, const void* argument) {
  State& state = *state_;
  if (state.threads.empty() || count <= chunk || state.is_forked()) {
    for (int64_t begin = 0; begin < count; begin += chunk) {
      range(argument, begin, begin + chunk < count ? begin + chunk : count, 0);
    }
    return;
  }
  state.count = count;
  state.chunk = chunk;
  state.range = range;
  state.argument = argument;
  state.next.store(0, std::memory_order_relaxed);
  const uint64_t number = state.phase.load() / State::kNumber + 1;
  state.phase.store(number * State::kNumber + State::kOpen);
  state.wake_sleepers();
  state.take_ranges(0);
  state.phase.fetch_sub(State::kOpen);
  while (!spin_until([&] { return state.is_empty(); })) std::this_thread::yield();
}

void* ThreadPool::scratch(Scratch slot, size_t bytes) {
  Buffer& buffer = state_->buffers[static_cast<size_t>(slot)];
  if (bytes > buffer.size) {
    const size_t page = bytes >= kHugePage ? kHugePage : 64;
    const size_t size = (bytes + page - 1) / page * page;
    free(buffer.data);
    buffer = Buffer{};
    buffer.data = aligned_alloc(page, size);
    if (buffer.data == nullptr) throw std::bad_alloc();
    buffer.size = size;
#if defined(MADV_HUGEPAGE)
    if (page == kHugePage) madvise(buffer.data, size, MADV_HUGEPAGE);
#endif
  }
  return buffer.data;
}

}  // namespace gr
