// What the mask of a lone token counts on (llama-kv-cells.h, patched), after random additions, removals and copies of
// sequences, against a look at every cell.

#include "llama-kv-cells.h"

#include <cstdio>
#include <random>

static bool alone(const llama_kv_cells & cells, llama_seq_id seq) {
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && (!cells.seq_has(i, seq) || cells.seq_count(i) != 1)) {
            return false;
        }
    }
    return true;
}

int main() {
    std::mt19937 rng(1);
    llama_kv_cells cells;
    cells.resize(8);
    int n_alone = 0, n_not = 0;
    for (int step = 0; step < 20000; ++step) {
        const uint32_t i   = rng()%cells.size();
        const int      seq = rng()%8 == 0 ? 1 + rng()%2 : 0;
        if (cells.is_empty(i)) {
            cells.pos_set(i, rng()%100);
            cells.seq_add(i, seq);
        } else if (rng()%4 == 0 && !cells.seq_has(i, seq)) {
            cells.seq_add(i, seq);
        } else {
            cells.rm(i);
        }
        for (llama_seq_id s = 0; s < 3; ++s) {
            const bool is_alone = cells.seq_is_alone(s);
            (is_alone ? n_alone : n_not)++;
            if (is_alone != alone(cells, s)) {
                printf("step %d, sequence %d: seq_is_alone is wrong\n", step, s);
                return 1;
            }
        }
        for (uint32_t j = 0; j < cells.size(); ++j) {
            if (cells.pos_data()[j] != (cells.is_empty(j) ? -1 : cells.pos_get(j))) {
                printf("step %d, cell %u: position %d\n", step, j, cells.pos_data()[j]);
                return 1;
            }
        }
    }
    printf("%d alone, %d not\n", n_alone, n_not);
    return n_alone == 0 || n_not == 0;
}
