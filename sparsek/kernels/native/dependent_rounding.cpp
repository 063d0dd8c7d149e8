// Dependent rounding of matrices whose rows and columns have whole sums: see sparsek/sampling/_cycles.py, which makes the same
// steps in Python, with the same random numbers.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

using Weight = std::int64_t;
using Index = std::int64_t;
using Node = std::int32_t;  // columns first, then rows
constexpr Weight ONE = Weight(1) << 52;

struct Random {  // splitmix64
    std::uint64_t state;

    std::uint64_t next() {
        std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

    std::uint64_t below(std::uint64_t bound) {
        return std::uint64_t(((unsigned __int128)next() * bound) >> 64);
    }
};

inline bool fractional(Weight w) { return w > 0 && w < ONE; }

class Rounding {
public:
    Rounding(long rows, long width) : width(width), above(rows + width), entry(rows + width), seen(rows + width) {}

    void run(Weight* weights, const Index* order, const Index* columns, std::uint64_t seed) {
        const long rows = long(above.size()) - width;
        std::fill(above.begin(), above.end(), Node(-1));
        std::fill(seen.begin(), seen.end(), 0);
        random.state = seed;
        visit = 0;
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < width; ++j)
                add(Node(width + order[i]), Node(columns[j]), weights + order[i] * width + columns[j]);
    }

private:
    // Put an entry into the forest; as long as it closes a cycle, round that first.
    void add(Node row, Node column, Weight* weight) {
        while (fractional(*weight)) {
            const Node meeting = meet(row, column);
            if (meeting < 0) {
                if (depth_of_row <= depth_of_column)
                    join(row, column, weight);
                else
                    join(column, row, weight);
                return;
            }
            round_cycle(row, column, meeting, weight);
        }
    }

    // The lowest node above both, or -1; the depths are remembered for `add`.
    Node meet(Node row, Node column) {
        ++visit;
        depth_of_row = depth_of_column = 0;
        for (Node n = row; n >= 0; n = above[n], ++depth_of_row) seen[n] = visit;
        for (Node n = column; n >= 0; n = above[n], ++depth_of_column)
            if (seen[n] == visit) return n;
        return -1;
    }

    // Turn the tree of `child` so that it is the root, and put it under `parent`.
    void join(Node child, Node parent, Weight* weight) {
        while (child >= 0) {
            std::swap(above[child], parent);
            std::swap(entry[child], weight);
            std::swap(child, parent);
        }
    }

    // Entries of the cycle move in turn, by the least amount that makes one whole; those that are leave the forest.
    void round_cycle(Node row, Node column, Node meeting, Weight* weight) {
        rising.assign(1, weight);
        falling.clear();
        collect(row, meeting);
        collect(column, meeting);
        Weight up = ONE, down = ONE;
        for (const Weight* w : rising) up = std::min(up, ONE - *w), down = std::min(down, *w);
        for (const Weight* w : falling) up = std::min(up, *w), down = std::min(down, ONE - *w);
        const Weight shift = random.below(std::uint64_t(up + down)) < std::uint64_t(down) ? up : -down;
        for (Weight* w : rising) *w += shift;
        for (Weight* w : falling) *w -= shift;
        cut(row, meeting);
        cut(column, meeting);
    }

    void collect(Node from, Node to) {
        for (bool fall = true; from != to; from = above[from], fall = !fall)
            (fall ? falling : rising).push_back(entry[from]);
    }

    void cut(Node from, Node to) {
        while (from != to) {
            const Node next = above[from];
            if (!fractional(*entry[from])) above[from] = -1;
            from = next;
        }
    }

    long width;
    std::vector<Node> above;       // the parent, or -1
    std::vector<Weight*> entry;    // the entry that joins a node to its parent
    std::vector<long> seen;
    std::vector<Weight*> rising, falling;
    long visit = 0, depth_of_row = 0, depth_of_column = 0;
    Random random{0};
};

}  // namespace

extern "C" long dependent_rounding(
    Weight* weights, const Index* order, const Index* columns, const std::int64_t* seeds, long problems, long rows, long width
) {
    Rounding rounding(rows, width);
    for (long p = 0; p < problems; ++p)
        rounding.run(weights + p * rows * width, order + p * rows, columns + p * width, std::uint64_t(seeds[p]));
    return 0;
}
