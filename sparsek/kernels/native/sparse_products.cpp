// Products with a sparse matrix S (rows, n) given by its pattern: entries offsets[r] to offsets[r + 1] of `indices` are the columns
// of row r. Bags: S W. Transposed bags: the transpose of S times X, after a counting sort of the entries by column. Dots: <x_r, w_i>
// for the entries (r, i). What a row of d numbers is multiplied with stays in the cache; the row that comes next is prefetched.

#include <algorithm>
#include <cstdint>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "vectors.h"

namespace {

constexpr long units = 65536;  // units that a thread is worth waking for
constexpr long huge = 1 << 21;

// A gradient as large as the dictionary is new memory at every step, and half of its cost is to fault it in by pages of 4 KiB.
void prefer_huge_pages(void *memory, long bytes) {
#ifdef __linux__
  const auto start = (reinterpret_cast<std::uintptr_t>(memory) + huge - 1) / huge * huge;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / huge * huge;
  if (end > start + huge) madvise(reinterpret_cast<void *>(start), end - start, MADV_HUGEPAGE);
#endif
}

template <typename Real> struct Rows : Vectors<Real> {
  using Base = Vectors<Real>;
  using Vec = typename Base::Vec;
  using Base::all, Base::lanes, Base::load, Base::store;

  static void prefetch(const Real *row, long d) {
    for (long j = 0; j < d; j += lanes) __builtin_prefetch(row + j);
  }

  // out = sum of values[e] * table[rows[e]]; `place` says where an entry has its value.
  static void bag(const Real *values, const long *rows, const long *place, long entries, const Real *table, long d, Real *out) {
    std::fill(out, out + d, Real(0));
    const auto row = [&](long e) { return table + rows[e] * d; };
    const auto value = [&](long e) { return all(values[place ? place[e] : e]); };
    long e = 0;
    for (; e + 1 < entries; e += 2) {
      if (e + 3 < entries) prefetch(row(e + 2), d), prefetch(row(e + 3), d);
      const Real *a = row(e), *b = row(e + 1);
      const Vec u = value(e), v = value(e + 1);
      long j = 0;
      for (; j + lanes <= d; j += lanes) store(out + j, load(out + j) + (u * load(a + j) + v * load(b + j)));
      for (; j < d; j++) out[j] += u[0] * a[j] + v[0] * b[j];
    }
    if (e < entries) {
      const Real *a = row(e), u = value(e)[0];
      for (long j = 0; j < d; j++) out[j] += u * a[j];
    }
  }

  static Real dot(const Real *a, const Real *b, long d) {
    Vec sums[4] = {};
    long j = 0;
    for (; j + 4 * lanes <= d; j += 4 * lanes)
      for (long i = 0; i < 4; i++) sums[i] += load(a + j + i * lanes) * load(b + j + i * lanes);
    for (; j + lanes <= d; j += lanes) sums[0] += load(a + j) * load(b + j);
    double rest = 0;
    for (; j < d; j++) rest += double(a[j]) * b[j];
    return Real(Base::sum((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest);
  }
};

template <typename Real>
long bags(const Real *values, const long *indices, const long *offsets, long rows, const Real *weight, long d, Real *out, int threads) {
  if (offsets[rows] * d < units) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16) if (threads > 1)
  for (long r = 0; r < rows; r++) {
    const long first = offsets[r];
    Rows<Real>::bag(values + first, indices + first, nullptr, offsets[r + 1] - first, weight, d, out + r * d);
  }
  return 0;
}

// The entries of each column in the order of their rows: where they are, and which row they belong to.
struct Columns {
  std::vector<long> ends, place, row;

  Columns(const long *indices, const long *offsets, long rows, long n) : ends(n + 1, 0), place(offsets[rows]), row(offsets[rows]) {
    for (long e = 0; e < offsets[rows]; e++) ends[indices[e] + 1]++;
    for (long i = 0; i < n; i++) ends[i + 1] += ends[i];
    std::vector<long> next(ends.begin(), ends.end() - 1);
    for (long r = 0; r < rows; r++) {
      for (long e = offsets[r]; e < offsets[r + 1]; e++) {
        const long at = next[indices[e]]++;
        place[at] = e;
        row[at] = r;
      }
    }
  }
};

template <typename Real>
long bags_transposed(const Real *values, const long *indices, const long *offsets, long rows, const Real *input, long d, Real *out, long n,
                     int threads) {
  const Columns columns(indices, offsets, rows, n);
  prefer_huge_pages(out, n * d * sizeof(Real));
  if (n * d < units) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64) if (threads > 1)
  for (long i = 0; i < n; i++) {
    const long first = columns.ends[i], entries = columns.ends[i + 1] - first;
    Rows<Real>::bag(values, columns.row.data() + first, columns.place.data() + first, entries, input, d, out + i * d);
  }
  return 0;
}

template <typename Real>
long dots(const Real *input, const Real *weight, long d, const long *indices, const long *offsets, long rows, Real *out, int threads) {
  if (offsets[rows] * d < units) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16) if (threads > 1)
  for (long r = 0; r < rows; r++) {
    for (long e = offsets[r]; e < offsets[r + 1]; e++) {
      if (e + 2 < offsets[r + 1]) Rows<Real>::prefetch(weight + indices[e + 2] * d, d);
      out[e] = Rows<Real>::dot(input + r * d, weight + indices[e] * d, d);
    }
  }
  return 0;
}

}  // namespace

#define SPARSEK_EXPORT(Real)                                                                                                           \
  extern "C" long sparse_bags_##Real(const Real *values, const long *indices, const long *offsets, long rows, const Real *weight,      \
                                     long d, Real *out, int threads) {                                                                 \
    return bags<Real>(values, indices, offsets, rows, weight, d, out, threads);                                                        \
  }                                                                                                                                    \
  extern "C" long sparse_bags_transposed_##Real(const Real *values, const long *indices, const long *offsets, long rows,               \
                                                const Real *input, long d, Real *out, long n, int threads) {                           \
    return bags_transposed<Real>(values, indices, offsets, rows, input, d, out, n, threads);                                           \
  }                                                                                                                                    \
  extern "C" long sparse_dots_##Real(const Real *input, const Real *weight, long d, const long *indices, const long *offsets,          \
                                     long rows, Real *out, int threads) {                                                              \
    return dots<Real>(input, weight, d, indices, offsets, rows, out, threads);                                                         \
  }
SPARSEK_EXPORT(float)
SPARSEK_EXPORT(double)
