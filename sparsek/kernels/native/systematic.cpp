// Systematic sampling of rows. Sums run inside blocks of a row, in the order of their units, so they are those of a cumulative
// sum to the last bit; eight blocks at a time, since one chain of additions waits for each.

#include <cmath>

namespace {

constexpr long chains = 8;
constexpr long units = 65536;  // units that a thread is worth waking for

// The blocks of all rows: block s is of row s / per_row.
struct Blocks {
  const double *probs;
  long stride, rows, n, width, per_row = (n + width - 1) / width;

  long count() const { return rows * per_row; }
  long first(long s) const { return s % per_row * width; }
  long length(long s) const { return n - first(s) < width ? n - first(s) : width; }
  const double *at(long s) const { return probs + s / per_row * stride + first(s); }

  // Call `body.template blocks<many>(s)` for all blocks: eight of one length together, others alone.
  template <typename Body> void visit(const Body &body, int threads) const {
    const long groups = (count() + chains - 1) / chains;
    if (rows * n < units) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long g = 0; g < groups; g++) {
      const long from = g * chains, to = from + chains < count() ? from + chains : count();
      bool alike = to - from == chains;
      for (long s = from; alike && s < to; s++) alike = length(s) == length(from);
      if (alike) body.template blocks<chains>(from);
      else
        for (long s = from; s < to; s++) body.template blocks<1>(s);
    }
  }
};

struct Add {
  const Blocks &all;
  double *sums;

  template <long many> void blocks(long s) const {
    const double *p[many];
    double sum[many] = {};
    for (long j = 0; j < many; j++) p[j] = all.at(s + j);
    for (long i = 0, length = all.length(s); i < length; i++)
      for (long j = 0; j < many; j++) sum[j] += p[j][i];
    for (long j = 0; j < many; j++) sums[s + j] = sum[j];
  }
};

// A unit is taken where the number of points before its end exceeds that before its start.
struct Take {
  const Blocks &all;
  const double *start;
  unsigned char *taken;

  template <long many> void blocks(long s) const {
    const double *p[many];
    unsigned char *to[many];
    double sum[many] = {}, from[many], before[many];
    for (long j = 0; j < many; j++) {
      p[j] = all.at(s + j), to[j] = taken + (s + j) / all.per_row * all.n + all.first(s + j);
      from[j] = start[s + j], before[j] = std::ceil(from[j]);
    }
    for (long i = 0, length = all.length(s); i < length; i++)
      for (long j = 0; j < many; j++) {
        sum[j] += p[j][i];
        const double points = std::ceil(sum[j] + from[j]);
        to[j][i] = points > before[j];
        before[j] = points;
      }
  }
};

}  // namespace

// Sums of the blocks of every row, (rows, blocks).
extern "C" long systematic_sums_double(const double *probs, long stride, double *sums, long rows, long n, long width, int threads) {
  const Blocks all{probs, stride, rows, n, width};
  all.visit(Add{all, sums}, threads);
  return 0;
}

// Samples (draws, rows, n), from where every block of a draw starts, (draws, rows, blocks), in points.
extern "C" long systematic_take_double(const double *probs, long stride, const double *start, unsigned char *taken, long rows, long n,
                                       long width, long draws, int threads) {
  const Blocks all{probs, stride, rows, n, width};
  for (long draw = 0; draw < draws; draw++) all.visit(Take{all, start + draw * all.count(), taken + draw * rows * n}, threads);
  return 0;
}
