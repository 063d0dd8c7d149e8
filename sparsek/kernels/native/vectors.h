// Short vectors of floats or doubles, by the vector extensions of GCC and Clang: no intrinsics, any instruction set.
// A vector is 64 bytes; where registers are narrower the compiler splits it.
#pragma once

#include <cmath>
#include <limits>

template <typename Real> struct Constants;

template <> struct Constants<float> {
  using Integer = int;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float exp_least = -87.0f, exp_most = 88.9f;
  static constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, left in the low bits
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float exp_terms[] = {  // Chebyshev interpolation on +-ln(2)/2, relative error 2.6e-9
      0.00139412131f, 0.00837521020f, 0.0416663516f, 0.166664145f, 0.500000005f, 1.00000004f, 1.0f};
};

template <> struct Constants<double> {
  using Integer = long long;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double exp_least = -708.0, exp_most = 709.9;
  static constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
  static constexpr double exp_terms[] = {  // relative error 4.3e-18
      2.5110153646928931e-8, 2.7632790542117181e-7, 2.7557240604663896e-6, 2.4801485074105117e-5,
      0.00019841269890340665, 0.0013888888952696516, 0.0083333333333194903, 0.041666666666486661,
      0.16666666666666681, 0.50000000000000186, 1.0, 1.0};
};

template <typename Real> struct Vectors {
  using C = Constants<Real>;
  using Integer = typename C::Integer;
  static constexpr long lanes = 64 / sizeof(Real);
  typedef Real Vec __attribute__((vector_size(64), aligned(sizeof(Real)), may_alias));
  typedef Integer Mask __attribute__((vector_size(64), aligned(sizeof(Real)), may_alias));

  static Vec all(Real value) { return value - Vec{}; }

  static Vec load(const Real *from) { return *reinterpret_cast<const Vec *>(from); }

  static void store(Real *to, Vec value) { *reinterpret_cast<Vec *>(to) = value; }

  // The first `count` lanes of memory; the others hold `rest`.
  static Vec load(const Real *from, long count, Real rest) {
    if (count >= lanes) return load(from);
    Vec value = all(rest);
    for (long i = 0; i < count; i++) value[i] = from[i];
    return value;
  }

  static void store(Real *to, Vec value, long count) {
    if (count >= lanes) return store(to, value);
    for (long i = 0; i < count; i++) to[i] = value[i];
  }

  // Pairwise, halving the vector.
  static double sum(Vec value) {
    typedef Real Half __attribute__((vector_size(32), aligned(sizeof(Real)), may_alias));
    typedef Real Quarter __attribute__((vector_size(16), aligned(sizeof(Real)), may_alias));
    const Half *halves = reinterpret_cast<const Half *>(&value), half = halves[0] + halves[1];
    const Quarter *quarters = reinterpret_cast<const Quarter *>(&half), quarter = quarters[0] + quarters[1];
    if constexpr (lanes == 8) return quarter[0] + quarter[1];
    else return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
  }

  // exp, 0 or infinite where it leaves the range of normal numbers; NaN stays NaN.
  static Vec exp(Vec x) { return x < C::exp_least ? Vec{} : positive_exp(x); }

  // exp, where it leaves the range of normal numbers the least of them or infinite; NaN stays NaN.
  static Vec positive_exp(Vec x) {
    x = x > C::exp_most ? all(C::exp_most) : x;  // its power of two is infinite
    x = x < C::exp_least ? all(C::exp_least) : x;
    const Vec rounded = x * Real(1.4426950408889634) + C::rounder, whole = rounded - C::rounder;
    const Vec rest = (x - whole * C::ln2_high) - whole * C::ln2_low;
    const Vec power = reinterpret_cast<Vec>((reinterpret_cast<Mask>(rounded) << C::mantissa) + (Integer(C::bias) << C::mantissa));
    Vec series = all(C::exp_terms[0]);
    for (unsigned i = 1; i < sizeof C::exp_terms / sizeof(Real); i++) series = series * rest + C::exp_terms[i];
    return series * power;
  }
};
