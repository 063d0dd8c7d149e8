// Hard top-k of rows: 1 at the floor(k) largest entries, the fraction of k at the next one, ties to the lowest index.
//
// A threshold is bisected over the ordered bit patterns of the scores, by counting what lies above, until exactly as many do as
// are wanted; only equal scores take it to the last bit. In a long row the ranks of a part of it leave few candidates, and the
// bisection counts those alone. A row without an answer (NaN, too few entries above -inf, too many at +inf) is reported.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr long long_row = 16384;
constexpr long units = 65536;  // units that a thread is worth waking for

template <typename Real> struct Selection : Vectors<Real> {
  using Base = Vectors<Real>;
  using Integer = typename Base::Integer;
  using Vec = typename Base::Vec;
  using Mask = typename Base::Mask;
  using Base::all, Base::lanes, Base::load, Base::store;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();
  static constexpr Integer largest = std::numeric_limits<Integer>::max();

  // Integers in the order of the numbers; -0 is 0.
  static Mask keys(Vec x) {
    const Mask bits = reinterpret_cast<Mask>(x + 0);
    return bits ^ ((bits >> (8 * sizeof(Real) - 1)) & largest);
  }

  static Integer key(Real x) { return keys(all(x))[0]; }

  static long total(Mask counts) {
    long result = 0;
    for (long i = 0; i < lanes; i++) result += counts[i];
    return result;
  }

  static long count_above(const Real *x, long n, Integer threshold) {
    Mask counts{};
    for (long i = 0; i < n; i += lanes) counts -= keys(load(x + i, n - i, -infinity)) > threshold;
    return total(counts);
  }

  // A threshold with `size` keys above it where there is one; else the size-th largest key, with fewer above it.
  // More than `size` lie above `low`, at most `size` above `high`; `above` counts those above the result.
  static Integer bisect(const Real *x, long n, long size, Integer low, Integer high, long &above) {
    above = -1;
    while (high - 1 > low) {
      const Integer middle = (low & high) + ((low ^ high) >> 1);
      const long count = count_above(x, n, middle);
      if (count == size) {
        above = count;
        return middle;
      }
      (count > size ? low : high) = middle;
    }
    above = count_above(x, n, high);
    return high;
  }

  // Keys between which the size-th largest lies, from the ranks of a strided part; all keys where the guess fails.
  static void narrow(const Real *x, Real *scratch, long n, long size, Integer &low, Integer &high) {
    const long runs = std::max(n / 64, 4096L) / lanes, stride = n / runs, part = runs * lanes;
    for (long i = 0; i < runs; i++) store(scratch + i * lanes, load(x + i * stride));
    std::sort(scratch, scratch + part, [](Real a, Real b) { return a > b; });
    const double share = double(size) / double(n), rank = share * part, margin = 5 * std::sqrt(rank * (1 - share)) + 2;
    if (rank - margin > 0) high = key(scratch[long(rank - margin)]);
    if (rank + margin < part) low = key(scratch[long(rank + margin)]) - 1;
  }

  // As bisect, over a long row: one pass collects the candidates that the bisection then counts.
  static Integer select_long(const Real *x, Real *scratch, long n, long size, Integer low, Integer high, long &above) {
    Integer floor = low, ceiling = high;
    narrow(x, scratch, n, size, floor, ceiling);
    long beyond = 0, candidates = 0;
    for (long i = 0; i < n; i += lanes) {
      const Mask k = keys(load(x + i, n - i, -infinity)), over = k > ceiling, inside = (k > floor) & ~over;
      for (long j = 0; j < lanes && i + j < n; j++) {
        scratch[candidates] = x[i + j];
        candidates -= inside[j];
      }
      beyond -= total(over);
    }
    const bool holds = beyond <= size && beyond + candidates > size;
    if (!holds) return bisect(x, n, size, low, high, above);
    const Integer found = bisect(scratch, candidates, size - beyond, floor, ceiling, above);
    above += beyond;
    return found;
  }

  // 1 above the threshold and at the first `ties` entries at it, 0 elsewhere.
  static void write(const Real *x, Real *out, long n, Integer threshold, long ties) {
    for (long i = 0; i < n; i += lanes) {
      const Mask k = keys(load(x + i, n - i, -infinity));
      store(out + i, k > threshold ? all(1) : all(0), n - i);
      if (ties == 0) continue;
      for (long j = 0; j < lanes && i + j < n && ties > 0; j++) {
        if (k[j] != threshold) continue;
        out[i + j] = 1;
        ties--;
      }
    }
  }

  // The first of the largest entries that are not selected.
  static long next(const Real *x, const Real *out, long n) {
    long best = -1;
    for (long i = 0; i < n; i++)
      if (out[i] == 0 && (best < 0 || x[i] > x[best])) best = i;
    return best;
  }

  static bool solve(const Real *x, Real *out, long n, double k) {
    const long size = long(std::floor(k));
    if (!(k >= 0 && k <= double(n))) return false;
    Vec sum{};
    Mask certain{}, valid{};
    for (long i = 0; i < n; i += lanes) {
      const Vec v = load(x + i, n - i, -infinity);
      sum += v != v ? v : Vec{};
      certain -= v == infinity;
      valid -= v > -infinity;
    }
    const double needed = std::ceil(k);
    if (std::isnan(Base::sum(sum)) || total(certain) > size || double(total(valid)) < needed) return false;
    if (size == 0) {
      std::fill(out, out + n, Real(0));
    } else if (size == total(valid)) {
      write(x, out, n, key(-infinity), 0);
    } else {
      long above = 0;
      const Integer low = key(-infinity) - 1, high = key(infinity);
      const Integer threshold = n > long_row ? select_long(x, out, n, size, low, high, above) : bisect(x, n, size, low, high, above);
      write(x, out, n, threshold, size - above);
    }
    if (k > double(size)) out[next(x, out, n)] = Real(k - double(size));
    return true;
  }
};

template <typename Real>
long solve_rows(const Real *x, long stride, Real *out, long rows, long n, const double *k, long k_step, unsigned char *solved, int threads) {
  long left = 0;
  if (rows * n < units) threads = 1;
#pragma omp parallel for num_threads(threads) reduction(+ : left) if (threads > 1)
  for (long row = 0; row < rows; row++) {
    solved[row] = Selection<Real>::solve(x + row * stride, out + row * n, n, k[row * k_step]);
    left += !solved[row];
  }
  return left;
}

}  // namespace

// Rows of x are `stride` apart; k advances by its step (0 or 1) from row to row. Returns how many rows have no answer.
#define SPARSEK_EXPORT(Real)                                                                                              \
  extern "C" long topk_mask_##Real(const Real *x, long stride, Real *out, long rows, long n, const double *k, long k_step, \
                                   unsigned char *solved, int threads) {                                                  \
    return solve_rows<Real>(x, stride, out, rows, n, k, k_step, solved, threads);                                         \
  }
SPARSEK_EXPORT(float)
SPARSEK_EXPORT(double)
