// Tournament pivotal sampling of rows: an up-sweep of residuals that serves all draws, and a down-sweep of one bit per pair for
// each. The random number of a pair is a hash of a seed and of its place, so draws do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr long units = 32768;  // units that a thread is worth waking for

// SplitMix64: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators". Uniform on [0, 1).
inline double uniform(uint64_t place) {
  uint64_t z = place * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

// Residuals of every round behind the row itself; a round of odd width ends in a unit of probability 0.
struct Tree {
  std::vector<double> weight;
  std::vector<long> start, width;

  void build(const double *probs, long n) {
    weight.reserve(2 * n + 128);
    weight.assign(probs, probs + n);
    start.assign(1, 0);
    width.assign(1, n);
    while (width.back() > 1) {
      const long from = start.back(), pairs = (width.back() + 1) / 2;
      if (width.back() % 2) weight.push_back(0);
      const long to = long(weight.size());
      weight.resize(to + pairs);
      for (long i = 0; i < pairs; i++) {
        const double sum = weight[from + 2 * i] + weight[from + 2 * i + 1];
        weight[to + i] = sum > 1 ? sum - 1 : sum;
      }
      start.push_back(to);
      width.push_back(pairs);
    }
  }

  // One draw. `states` has room for two rounds, each padded to an even width.
  void draw(uint64_t seed, unsigned char *states, unsigned char *sample) const {
    const long room = width[0] + 1;
    unsigned char *now = states, *next = states + room;
    now[0] = weight[start.back()] > 0.5;
    for (long round = long(start.size()) - 2; round >= 0; round--) {
      const double *w = &weight[start[round]];
      const long pairs = (width[round] + 1) / 2;
      for (long i = 0; i < pairs; i++) {
        const double a = w[2 * i], b = w[2 * i + 1];
        const unsigned char saturated = a + b > 1;
        const double left = saturated ? 1 - a : a, both = saturated ? 2 - (a + b) : a + b;
        const unsigned char keeps = uniform(seed + uint64_t(start[round] + i)) * both < left;
        const unsigned char moves = keeps & (now[i] ^ saturated);
        next[2 * i] = saturated ^ moves;
        next[2 * i + 1] = now[i] ^ moves;
      }
      std::swap(now, next);
    }
    std::copy(now, now + width[0], sample);
  }
};

}  // namespace

// Bytes 0 and 1, (draws, rows, n), from probabilities (rows, n).
extern "C" long pivotal_double(const double *probs, long stride, unsigned char *sample, long rows, long n, long draws, uint64_t seed,
                               int threads) {
  if (rows * n * draws < units) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Tree tree;
    std::vector<unsigned char> states(2 * (n + 1));
#pragma omp for
    for (long row = 0; row < rows; row++) {
      tree.build(probs + row * stride, n);
      for (long draw = 0; draw < draws; draw++) {
        const uint64_t place = uint64_t(draw * rows + row) * uint64_t(4 * n + 128);
        tree.draw(seed + place, states.data(), sample + (draw * rows + row) * n);
      }
    }
  }
  return 0;
}
