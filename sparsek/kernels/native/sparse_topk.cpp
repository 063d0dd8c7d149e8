// The k largest entries of rows, sorted, with their indices, from the columns of the rows in consecutive blocks.
//
// Of each row a pool of candidates is kept, and a threshold: what does not exceed it is passed over, one vector comparison for
// 16 entries. In the first block the threshold comes from the maxima of groups: k groups have a maximum of at least the k-th
// largest of them. A full pool is cut down to its k best, the last of which is the new threshold. The order is: value descending,
// index ascending, NaN first.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

constexpr long units = 65536;  // units that a thread is worth waking for
constexpr long block = 8;      // vectors that are tested at once

template <typename Real> struct Entry {
  Real value;
  long index;
};

template <typename Real, bool magnitude> struct Pool : Vectors<Real> {
  using Base = Vectors<Real>;
  using Vec = typename Base::Vec;
  using Mask = typename Base::Mask;
  using Base::all, Base::lanes, Base::load;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

  static long capacity(long k) { return 2 * k + 256; }

  static Vec key(Vec v) {
    if constexpr (magnitude) return v < 0 ? -v : v;
    else return v;
  }

  static Real key(Real v) { return magnitude ? std::abs(v) : v; }

  static bool precedes(const Entry<Real> &a, const Entry<Real> &b) {
    const Real x = key(a.value), y = key(b.value);
    if (x > y) return true;
    if (x < y) return false;
    if (x == y) return a.index < b.index;
    return std::isnan(x) && std::isnan(y) ? a.index < b.index : std::isnan(x);
  }

  static Vec at(const Real *x, const Real *bias, long i) { return bias ? load(x + i) + load(bias + i) : load(x + i); }

  static Vec most_of(const Real *x, const Real *bias, long from, long to) {
    Vec most = all(-infinity);
    for (long i = from; i < to; i += lanes) {
      const Vec v = key(at(x, bias, i));
      most = v > most ? v : most;
    }
    return most;
  }

  // A number below which none of the k best lies; NaN where the groups are too few to tell.
  static Real bound(const Real *x, const Real *bias, long n, long k) {
    const long vectors = std::max(block, n / (8 * k)), groups = n / (vectors * lanes);
    if (groups * lanes < 2 * k) return NAN;
    thread_local std::vector<Real> maxima;
    maxima.resize(groups * lanes);
    for (long g = 0; g < groups; g++) Base::store(maxima.data() + g * lanes, most_of(x, bias, g * vectors * lanes, (g + 1) * vectors * lanes));
    std::nth_element(maxima.begin(), maxima.begin() + k - 1, maxima.end(), [](Real a, Real b) { return a > b; });
    const Real least = maxima[k - 1];
    return least == -infinity ? NAN : std::nextafter(least, -infinity);
  }

  static bool any(Mask mask) {
    typedef long long Half __attribute__((vector_size(32), aligned(8), may_alias));
    const Half *halves = reinterpret_cast<const Half *>(&mask), half = halves[0] | halves[1];
    return (half[0] | half[1]) | (half[2] | half[3]);
  }

  // Whether one of the entries of a whole block is not at most the threshold; true too where infinities of both signs meet.
  static bool beyond(const Real *x, const Real *bias, long start, Real threshold) {
    Vec most = all(-infinity), sum{};
#pragma GCC unroll 8
    for (long i = start; i < start + block * lanes; i += lanes) {
      const Vec v = key(at(x, bias, i));
      most = v > most ? v : most;
      sum += v;  // a NaN stays in it, and not in the largest
    }
    return any(~(most <= threshold) | (sum != sum));
  }

  static void update(const Real *x, const Real *bias, long n, long first, long k, Entry<Real> *pool, long &count, Real &threshold) {
    if (count == 0) threshold = bound(x, bias, n, k);
    for (long start = 0; start < n; start += block * lanes) {
      const long end = std::min(start + block * lanes, n);
      if (end - start == block * lanes && !beyond(x, bias, start, threshold)) continue;
      if (count + block * lanes > capacity(k)) {
        std::nth_element(pool, pool + k - 1, pool + count, precedes);
        const Real last = key(pool[k - 1].value);
        threshold = std::isnan(last) ? infinity : last;
        count = k;
      }
      for (long j = start; j < end; j++) {
        const Real v = bias ? x[j] + bias[j] : x[j];
        pool[count] = {v, first + j};
        count += !(key(v) <= threshold);
      }
    }
  }

  static void finish(Entry<Real> *pool, long count, long k, Real *values, long *indices) {
    if (count > k) std::nth_element(pool, pool + k - 1, pool + count, precedes);
    std::sort(pool, pool + k, precedes);
    for (long j = 0; j < k; j++) {
      values[j] = pool[j].value;
      indices[j] = pool[j].index;
    }
  }
};

template <typename Real, bool magnitude>
long update_rows(const Real *x, long stride, const Real *bias, long rows, long n, long first, long k, Entry<Real> *pools, long *counts,
                 Real *thresholds, int threads) {
  using P = Pool<Real, magnitude>;
  if (rows * n < units) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long row = 0; row < rows; row++)
    P::update(x + row * stride, bias, n, first, k, pools + row * P::capacity(k), counts[row], thresholds[row]);
  return 0;
}

template <typename Real, bool magnitude>
long finish_rows(Entry<Real> *pools, const long *counts, long rows, long k, Real *values, long *indices, int threads) {
  using P = Pool<Real, magnitude>;
  if (rows * k < units / 64) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long row = 0; row < rows; row++) P::finish(pools + row * P::capacity(k), counts[row], k, values + row * k, indices + row * k);
  return 0;
}

}  // namespace

// `update` takes the next n columns of all rows, `stride` apart, whose first is column `first`, plus a bias of each (or null).
// A pool holds 2k + 256 entries of 16 bytes; counts begin at 0. `finish` sorts the k best of each.
#define SPARSEK_EXPORT(Real)                                                                                                     \
  extern "C" long sparse_topk_update_##Real(const Real *x, long stride, const Real *bias, long rows, long n, long first, long k, \
                                            void *pools, long *counts, Real *thresholds, int magnitude, int threads) {           \
    auto *entries = static_cast<Entry<Real> *>(pools);                                                                           \
    auto run = magnitude ? update_rows<Real, true> : update_rows<Real, false>;                                                   \
    return run(x, stride, bias, rows, n, first, k, entries, counts, thresholds, threads);                                        \
  }                                                                                                                              \
  extern "C" long sparse_topk_finish_##Real(void *pools, const long *counts, long rows, long k, Real *values, long *indices,     \
                                            int magnitude, int threads) {                                                        \
    auto *entries = static_cast<Entry<Real> *>(pools);                                                                           \
    auto run = magnitude ? finish_rows<Real, true> : finish_rows<Real, false>;                                                   \
    return run(entries, counts, rows, k, values, indices, threads);                                                              \
  }
SPARSEK_EXPORT(float)
SPARSEK_EXPORT(double)
