// What the mask of a lone token counts on (llama-kv-cells.h, patched), after random changes of cells of all kinds, against a
// look at every cell.

#include "llama-kv-cells.h"

#include <cstdio>
#include <random>

constexpr int N_SEQ = 3;

static bool alone(const llama_kv_cells & cells, llama_seq_id seq) {
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && (!cells.seq_has(i, seq) || cells.seq_count(i) != 1)) {
            return false;
        }
    }
    return true;
}

// cell i becomes another in one of the ways that a cache has
static void change(llama_kv_cells & cells, uint32_t i, std::mt19937 & rng) {
    const llama_seq_id seq = rng()%8 == 0 ? 1 + rng()%(N_SEQ - 1) : 0;
    if (cells.is_empty(i)) {
        cells.pos_set(i, rng()%100);
        cells.seq_add(i, seq);
        return;
    }
    switch (rng()%8) {
        case 0: if (!cells.seq_has(i, seq)) { cells.seq_add(i, seq); } break;
        case 1: if ( cells.seq_has(i, seq)) { cells.seq_rm(i, seq); } break;
        case 2: cells.seq_keep(i, seq); break;
        case 3: cells.pos_add(i, (int) (rng()%60) - 40); break; // a cell below position 0 becomes empty
        case 4: cells.pos_div(i, 2); break;
        case 5: { // as where a batch is prepared: changed, and put back
            const std::vector<uint32_t> idxs = { i };
            const llama_kv_cells before = cells.cp(idxs);
            cells.rm(i);
            cells.set(idxs, before);
            break;
        }
        default: cells.rm(i);
    }
    cells.reset_shift();
}

int main() {
    std::mt19937 rng(1);
    llama_kv_cells cells;
    cells.resize(8);
    int n_alone = 0, n_not = 0;
    for (int step = 0; step < 50000; ++step) {
        change(cells, rng()%cells.size(), rng);
        const llama_pos p1 = rng()%100;
        for (llama_seq_id seq = 0; seq < N_SEQ; ++seq) {
            const bool is_alone = cells.seq_is_alone(seq);
            (is_alone ? n_alone : n_not)++;
            if (is_alone != alone(cells, seq)) {
                printf("step %d, sequence %d: seq_is_alone is wrong\n", step, seq);
                return 1;
            }
            for (uint32_t j = 0; j < cells.size() && is_alone; ++j) {
                const bool hidden = cells.is_empty(j) || !cells.seq_has(j, seq) || cells.pos_get(j) > p1;
                if (hidden == ((uint32_t) cells.pos_data()[j] <= (uint32_t) p1)) {
                    printf("step %d, sequence %d, position %d: cell %u at %d\n", step, seq, p1, j, cells.pos_data()[j]);
                    return 1;
                }
            }
        }
    }
    printf("%d alone, %d not\n", n_alone, n_not);
    return n_alone == 0 || n_not == 0;
}
