// Rows of sigmoid top-k: the threshold t with sum of sigmoid((x - t) / T) = k, and the gradient.
//
// One pass forms the residual sum p - k and its next three derivatives along t. Far from the solution the step is Newton's on the
// logit of the mean, which is nearly linear; near it the root of the Taylor polynomial. A row whose sums no longer resolve k goes
// on with the small side r = sigmoid(-|z|) of every sigmoid, (#{z > 0} - k) + sum of -+r, which keeps its relative accuracy. Steps
// stay inside the bracket of the residual's signs; a row that does not converge gets one from two of its order statistics. Rows
// beyond that (k at its limits, NaN, scores whose spacing exceeds T) are reported, and solved by the caller.

#include <algorithm>
#include <functional>

#include "vectors.h"

namespace {

constexpr long short_row = 4096;  // up to here every pass writes; a longer row is written once its threshold is known
constexpr long subsample = 1024;
constexpr long alike = 65536;     // from here on the curvature of a part is that of the row
constexpr long group = 8;         // vectors in one chain of additions: rounding of equal terms grows with its length
constexpr long groups = 16;
constexpr int free_passes = 3, bracketed_passes = 110;
constexpr double taylor = 0.25;   // largest Newton step at which the Taylor polynomial is the better model
constexpr double close = 0.15;    // largest step after which the next one is below `last`
constexpr double saturated = 0.02;  // sum d / sum p below which plain sums do not resolve the threshold
constexpr long units = 65536;     // units that a thread is worth waking for
constexpr int most_threads = 256;

template <typename Real> struct Limits;
template <> struct Limits<float> {
  static constexpr double series = 0.05;    // largest shift of the logits that three terms of the sigmoid's series hold
  static constexpr double last = 3e-5;      // the same in long rows, where units near 1 must not be rounded twice
  static constexpr double near = 0.15;      // largest step after which the curvature is what it was
  static constexpr double rounding = 1e-7;  // relative residual that is rounding
};
template <> struct Limits<double> {
  static constexpr double series = 1e-4, last = 1e-4, near = 0, rounding = 1e-16;
};

// Sums over the units, of numbers or of vectors. With d = p (1 - p) and r = min(p, 1 - p).
template <typename Value> struct Sums {
  Value total{};   // p, or where signed the number above the threshold
  Value upper{};   // r above the threshold, where signed
  Value lower{};   // r below it, where signed
  Value slope{};   // d
  Value twist{};   // d p, or where signed d (1 - 2p) / -2
  Value square{};  // d d

  Sums &operator+=(const Sums &other) {
    total += other.total, upper += other.upper, lower += other.lower;
    slope += other.slope, twist += other.twist, square += other.square;
    return *this;
  }
};

// z = (x - pivot) / T - rest: differences from scores far from 0 are exact.
template <typename Real> struct Shift {
  Real pivot, rest, inverse;
  Shift(double threshold, double temperature)
      : pivot(Real(threshold)), rest(Real((threshold - pivot) / temperature)), inverse(Real(1 / temperature)) {}
};

template <typename Real> struct Row : Vectors<Real> {
  using Base = Vectors<Real>;
  using Vec = typename Base::Vec;
  using Mask = typename Base::Mask;
  using Base::all, Base::exp, Base::positive_exp, Base::lanes, Base::load, Base::store, Base::sum;
  static constexpr long block = group * groups * lanes;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

  // Sigmoids of one vector of logits, added to the sums; a curved pass also sums what the curvature takes.
  template <bool is_signed, bool curved> static Vec sigmoids(Vec z, Sums<Vec> &sums) {
    const Vec zero{};
    if constexpr (is_signed) {
      const Mask above = z > 0;
      const Vec small_odds = exp(above ? -z : z), large = 1 / (1 + small_odds), small = small_odds * large;
      const Vec slope = small * large, twist = slope * small - slope / 2;
      sums.total += above ? all(1) : zero;
      sums.upper += above ? small : zero;
      sums.lower += above ? zero : small;
      sums.slope += slope;
      sums.twist += above ? -twist : twist;
      sums.square += slope * slope;
      return above ? large : small;
    } else {
      const Vec p = 1 / (1 + positive_exp(-z)), slope = p - p * p;
      sums.total += p;
      sums.slope += slope;
      if constexpr (curved) sums.twist += slope * p, sums.square += slope * slope;
      return p;
    }
  }

  template <bool is_signed, bool curved, bool writes> static Sums<double> pass_of(const Real *x, Real *out, long n, Shift<Real> by) {
    Sums<double> result;
    for (long start = 0; start < n; start += block) {
      const long end = n - start < block ? n : start + block;
      Sums<Vec> sums;
      for (long i = start; i < end;) {
        Sums<Vec> part;
        for (long j = 0; j < group && i + lanes <= end; j++, i += lanes) {
          const Vec p = sigmoids<is_signed, curved>((load(x + i) - by.pivot) * by.inverse - by.rest, part);
          if constexpr (writes) store(out + i, p);
        }
        if (i < end && i + lanes > end) {
          const Vec p = sigmoids<is_signed, curved>((load(x + i, end - i, -infinity) - by.pivot) * by.inverse - by.rest, part);
          if constexpr (writes) store(out + i, p, end - i);
          i = end;
        }
        sums += part;
      }
      result += {sum(sums.total), is_signed ? sum(sums.upper) : 0, is_signed ? sum(sums.lower) : 0,
                 sum(sums.slope), sum(sums.twist), sum(sums.square)};
    }
    if constexpr (is_signed) result.twist = result.slope / 2 + result.twist;
    return result;
  }

  template <bool is_signed, bool curved> static Sums<double> pass_to(const Real *x, Real *out, long n, Shift<Real> by) {
    return out ? pass_of<is_signed, curved, true>(x, out, n, by) : pass_of<is_signed, curved, false>(x, out, n, by);
  }

  static Sums<double> pass(const Real *x, Real *out, long n, Shift<Real> by, bool is_signed, bool curved) {
    if (is_signed) return pass_to<true, true>(x, out, n, by);
    return curved ? pass_to<false, true>(x, out, n, by) : pass_to<false, false>(x, out, n, by);
  }

  // The same, in chunks of whole blocks on several threads.
  static Sums<double> pass(const Real *x, Real *out, long n, Shift<Real> by, bool is_signed, bool curved,
                           int threads) {
    if (threads > n / units) threads = int(n / units);
    if (threads <= 1) return pass(x, out, n, by, is_signed, curved);
    if (threads > most_threads) threads = most_threads;
    Sums<double> parts[most_threads], result;
    const long chunk = ((n + threads - 1) / threads + block - 1) / block * block;
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
      const long start = t * chunk < n ? t * chunk : n, size = n - start < chunk ? n - start : chunk;
      parts[t] = pass(x + start, out ? out + start : nullptr, size, by, is_signed, curved);
    }
    for (int t = 0; t < threads; t++) result += parts[t];
    return result;
  }

  // The shift of all logits after which the probabilities sum to k, by the best model of the sums.
  static double step(const Sums<double> &s, double residual, double k, double n, bool is_signed) {
    const double inverse = 1 / s.slope, newton = -residual * inverse;
    if (std::fabs(newton) <= taylor) {
      // root + a root^2 + b root^3 = newton, by reversion of the series and one step of Newton's
      const double a = 0.5 - s.twist * inverse, b = 1. / 6 - s.square * inverse;
      const double root = newton * (1 - newton * (a - newton * (2 * a * a - b - newton * 5 * a * (a * a - b))));
      return root - (root * (1 + root * (a + root * b)) - newton) / (1 + root * (2 * a + root * 3 * b));
    }
    const double missing = k - s.total;
    if (is_signed && std::fabs(missing) < 1 && s.slope > 0.8 * (s.upper + s.lower)) {
      // Both sides are exponential tails, so exp(step) solves a quadratic.
      const double root = std::sqrt(missing * missing + 4 * s.upper * s.lower);
      const double ratio = missing > 0 ? (missing + root) / (2 * s.lower) : 2 * s.upper / (root - missing);
      if (ratio > 0 && std::isfinite(ratio)) return std::log(ratio);
    }
    // Of a saturated row, k + residual rounds to 0 or n, where a step would be 0.
    const double small = is_signed ? s.lower - s.upper : 0, total = s.total + small, rest = (n - s.total) - small;
    const double distance = std::fabs(residual) < 0.1 * std::fmin(k, n - k)
                                ? std::log1p(residual / k) - std::log1p(-residual / (n - k))
                                : std::log(total / k) - std::log(rest / (n - k));
    return -distance * total * rest / (s.slope * n);
  }

  // Add to every logit `by`, by the Taylor series of the sigmoid.
  static void polish(Real *p, long n, double by) {
    const Real first = Real(by), second = Real(by * by / 2), third = Real(by * by * by / 6);
    for (long i = 0; i < n; i += lanes) {
      const Vec v = load(p + i, n - i, 0), d = v - v * v;
      store(p + i, v + d * (first + second * (1 - 2 * v) + third * (1 - 6 * d)), n - i);
    }
  }

  // The threshold that is right for bell-shaped scores, from the moments of the entries above -inf. Counts those entries.
  static double start(const Real *x, long n, double k, double temperature, double &valid) {
    long first = 0;
    while (first < n && !std::isfinite(x[first])) first++;
    if (first == n) return NAN;
    const Real origin = x[first];
    Vec count{}, total{}, square{};
    for (long i = 0; i < n; i += lanes) {
      const Vec v = load(x + i, n - i, -infinity);
      const Mask hidden = v == -infinity;
      const Vec difference = hidden ? Vec{} : v - origin;
      count += hidden ? Vec{} : all(1);
      total += difference;
      square += difference * difference;
    }
    valid = sum(count);
    const double mean = sum(total) / valid, variance = std::fmax(sum(square) / valid - mean * mean, 0);
    const double widening = std::sqrt(1 + M_PI / 8 * variance / (temperature * temperature));
    return origin + mean - temperature * widening * std::log(k / (valid - k));
  }

  // What is known of the threshold of a row: t lies in [low, high].
  struct Guess {
    double t, low = -INFINITY, high = INFINITY;
    int passes = 0;                    // made so far
    double twist = NAN, square = NAN;  // these sums over that of the slope, where known near the threshold
  };

  // Follow the steps from a guess: without `out` until the Taylor polynomial holds, with it until the probabilities are right.
  // False if the row is left.
  static bool descend(const Real *x, Real *out, long n, double k, double valid, double temperature, Guess &guess, int threads) {
    double &t = guess.t, &low = guess.low, &high = guess.high, earlier = INFINITY, previous = INFINITY;
    const double enough = n <= short_row ? Limits<Real>::series : Limits<Real>::last;
    const bool bracketed = std::isfinite(high - low);
    bool writes = out && (n <= short_row || bracketed), is_signed = bracketed;
    for (int i = 0; i < (bracketed ? bracketed_passes : free_passes) && std::isfinite(t); i++) {
      const bool curved = is_signed || std::isnan(guess.twist);
      Sums<double> s = pass(x, writes ? out : nullptr, n, {t, temperature}, is_signed, curved, threads);
      if (!curved) s.twist = guess.twist * s.slope, s.square = guess.square * s.slope;
      guess.passes++;
      const double residual = is_signed ? (s.total - k) + (s.lower - s.upper) : s.total - k;
      if (std::isnan(residual)) return false;
      if (!is_signed && !(s.slope > saturated * s.total && s.total < valid)) {
        is_signed = true;
        continue;
      }
      if (!(s.slope > 0) && bracketed && residual == 0) return true;  // every sigmoid is 0 or 1
      if (!(s.slope > 0) && !bracketed) return false;
      const double change = s.slope > 0 ? step(s, residual, k, valid, is_signed) : INFINITY, size = std::fabs(change);
      const double proposal = t - change * temperature;
      const bool is_near = !is_signed && size <= Limits<Real>::near;
      guess.twist = is_near ? s.twist / s.slope : NAN, guess.square = s.square / s.slope;
      if ((writes && size <= enough) || (!out && size <= close)) {
        const bool is_exact = std::fabs(residual) <= Limits<Real>::rounding * k && size <= 10 * Limits<Real>::rounding;
        if (out && !is_exact) polish(out, n, change);
        t = proposal;
        return true;
      }
      writes = writes || (out && size <= close);
      low = residual > 0 && t > low ? t : low;
      high = residual < 0 && t < high ? t : high;
      const double width = high - low;
      const bool bisects = std::isfinite(width) && !(proposal >= low && proposal <= high && width <= earlier / 2);
      t = bisects ? low + width / 2 : proposal;
      earlier = previous, previous = width;
    }
    return false;
  }

  // A bracket from order statistics. With v the ceil(k)-th largest score, at most ceil(k) - 1 units lie above it, so
  // sigmoid((v - t) / T) must reach their missing share; with v the (floor(k) + 1)-th largest, the floor(k) + 1 units at or above
  // it must not exceed k. False where double precision does not resolve T there.
  static bool bracket(const Real *x, Real *scratch, long n, double k, double valid, double temperature, Guess &guess) {
    const long upper = long(std::ceil(k)), lower = long(std::floor(k)) + 1;
    for (long i = 0; i < n; i++) {
      if (std::isnan(x[i])) return false;
      scratch[i] = x[i];
    }
    std::nth_element(scratch, scratch + upper - 1, scratch + n, std::greater<Real>());
    const double most = scratch[upper - 1];
    const double least = lower == upper ? most : *std::max_element(scratch + upper, scratch + n);
    if (!(std::fabs(most) < 1e9 * temperature && std::fabs(least) < 1e9 * temperature)) return false;
    const double missing = (k - double(upper - 1)) / (valid - double(upper - 1)), share = k / double(lower);
    guess.high = most - temperature * std::log(missing / (1 - missing));
    guess.low = least - temperature * std::log(share / (1 - share));
    guess.t = guess.low + (guess.high - guess.low) / 2;
    return true;
  }

  // A guess for a long row: the solution of a part of it, runs of one vector at equal distances, laid out in `scratch`.
  static Guess guess_of_part(const Real *x, Real *scratch, long n, double k, double temperature) {
    const long runs = (n / 32 > subsample ? n / 32 : subsample) / lanes, stride = n / runs, size = runs * lanes;
    for (long i = 0; i < runs; i++) store(scratch + i * lanes, load(x + i * stride));
    const double share = k * double(size) / double(n);
    double valid = 0;
    Guess guess{start(scratch, size, share, temperature, valid)};
    if (!(share < valid)) return {NAN};
    const bool solved = descend(scratch, nullptr, size, share, valid, temperature, guess, 1) ||
                        (bracket(scratch, scratch + size, size, share, valid, temperature, guess) &&
                         descend(scratch, nullptr, size, share, valid, temperature, guess, 1));
    if (!solved) return {NAN};
    return n < alike ? Guess{guess.t} : Guess{guess.t, -INFINITY, INFINITY, 0, guess.twist, guess.square};
  }

  // Returns the number of passes over the whole row, 0 if it is left.
  static int solve(const Real *x, Real *out, long n, double k, double temperature, double &threshold, int threads) {
    double valid = double(n);
    if (!(k > 0 && k < valid)) return 0;
    Guess guess = n > short_row ? guess_of_part(x, out, n, k, temperature) : Guess{start(x, n, k, temperature, valid)};
    if (!(k < valid)) return 0;
    const bool solved = descend(x, out, n, k, valid, temperature, guess, threads) ||
                        (bracket(x, out, n, k, valid, temperature, guess) &&
                         descend(x, out, n, k, valid, temperature, guess, threads));
    threshold = guess.t;
    return solved ? guess.passes : 0;
  }

  // d (g - <w, g>) / T of one row and <w, g>. Returns sum d.
  static double pull_back(const Real *p, const Real *g, Real *out, long n, double temperature, double &mean) {
    double total = 0, product = 0;
    for (long start = 0; start < n; start += block) {
      const long end = n - start < block ? n : start + block;
      Vec density{}, weighted{};
      for (long i = start; i < end; i += lanes) {
        const Vec v = load(p + i, end - i, 0), d = v - v * v;
        density += d;
        weighted += d * load(g + i, end - i, 0);
      }
      total += sum(density), product += sum(weighted);
    }
    mean = product / total;
    const Real centre = Real(mean), inverse = Real(1 / temperature);
    for (long i = 0; i < n; i += lanes) {
      const Vec v = load(p + i, n - i, 0);
      store(out + i, (v - v * v) * (load(g + i, n - i, 0) - centre) * inverse, n - i);
    }
    return total;
  }
};

template <typename Real>
long solve_rows(const Real *x, long stride, Real *out, long rows, long n, const double *k, long k_step, const double *temperature,
                long temperature_step, double *threshold, unsigned char *passes, int threads) {
  long left = 0;
  const bool inside = rows < threads;
  const int across = inside || rows * n < units ? 1 : threads;
#pragma omp parallel for num_threads(across) reduction(+ : left) if (across > 1)
  for (long row = 0; row < rows; row++) {
    const int count = Row<Real>::solve(x + row * stride, out + row * n, n, k[row * k_step], temperature[row * temperature_step],
                                       threshold[row], inside ? threads : 1);
    passes[row] = (unsigned char)count;
    left += count == 0;
  }
  return left;
}

template <typename Real>
long pull_back_rows(const Real *p, const Real *g, long stride, Real *out, long rows, long n, const double *k, long k_step,
                    const double *temperature, long temperature_step, double resolved, double *mean, int threads) {
  long left = 0;
  if (rows * n < units) threads = 1;
#pragma omp parallel for num_threads(threads) reduction(+ : left) if (threads > 1)
  for (long row = 0; row < rows; row++) {
    const double total =
        Row<Real>::pull_back(p + row * n, g + row * stride, out + row * n, n, temperature[row * temperature_step], mean[row]);
    left += !(total > resolved * k[row * k_step]);
  }
  return left;
}

}  // namespace

// Rows of x are `stride` apart; k and T advance by their steps (0 or 1) from row to row.
#define SPARSEK_EXPORT(Real)                                                                                                     \
  /* Solve every row and count the passes over it, 0 where it is left; returns how many are left. */                               \
  extern "C" long solve_##Real(const Real *x, long stride, Real *out, long rows, long n, const double *k, long k_step,           \
                               const double *t, long t_step, double *threshold, unsigned char *passes, int threads) {            \
    return solve_rows<Real>(x, stride, out, rows, n, k, k_step, t, t_step, threshold, passes, threads);                          \
  }                                                                                                                              \
  /* The gradient of every row; returns in how many sum d is not above resolved * k: too saturated for plain sums. */            \
  extern "C" long pull_back_##Real(const Real *p, const Real *g, long stride, Real *out, long rows, long n, const double *k,     \
                                   long k_step, const double *t, long t_step, double resolved, double *mean, int threads) {      \
    return pull_back_rows<Real>(p, g, stride, out, rows, n, k, k_step, t, t_step, resolved, mean, threads);                      \
  }
SPARSEK_EXPORT(float)
SPARSEK_EXPORT(double)
