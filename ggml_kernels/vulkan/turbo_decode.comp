#version 450

// Attention of few queries (decode) with turbo3 or turbo4 in the cache, beside any type of turbo_decode_items.glsl.
//
// A team of 4 or 8 threads has one head of K and V and takes positions of its own, BATCH at a time: scores, their part of
// a running softmax, values. A thread has the same items of all rows, for all of up to four queries, so each code is
// looked up once for all queries. Teams of a workgroup have KV_HEADS neighbouring heads, whose rows lie together, and
// streams of positions; streams meet only at the end. A subgroup must be full, and hold whole teams.
//
// Writes what flash_attn.comp writes for split_k: the outputs of [D, heads, splits, tokens, sequences], then the sums and
// the maxima (natural logarithm).

#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout (constant_id = 0) const uint THREADS  = 128;
layout (constant_id = 1) const uint D        = 128;
layout (constant_id = 2) const uint TYPE_K   = 96;
layout (constant_id = 3) const uint TYPE_V   = 96;
layout (constant_id = 4) const uint ROWS     = 4; // queries: 1, 2 or 4
layout (constant_id = 5) const uint BATCH    = 4; // positions: 2 or 4
layout (constant_id = 6) const uint KV_HEADS = 4; // 1, 2 or 4
layout (constant_id = 7) const uint FLAGS    = 0;

layout (local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;

#include "turbo_blocks.glsl"
#include "turbo_tables.glsl"

const bool MASK    = (FLAGS & 1u) != 0;
const bool SOFTCAP = (FLAGS & 2u) != 0;

const uint TEAM      = D == 64 ? 4u : 8u;
const uint TEAM_BITS = D == 64 ? 2u : 3u;
const uint ITEMS     = D/16u/TEAM; // of a thread in a row
const uint TEAMS     = THREADS/TEAM;
const uint STREAMS   = TEAMS/KV_HEADS;

const uint ROW_BITS  = ROWS == 4 ? 2u : (ROWS == 2 ? 1u : 0u);
const uint BITS      = ROW_BITS + (BATCH == 4 ? 2u : 1u);   // of the number of a score of a batch
const uint SPREAD    = BITS < TEAM_BITS ? BITS : TEAM_BITS; // bits of it that are the thread's; its row's are among them
const uint SCORES    = ROWS*BATCH >> SPREAD;                // of a batch that a thread is left with

layout (push_constant) uniform parameter {
    uint tokens, KV;
    uint heads, group;                      // group: heads of Q to one of K and V
    uint sequences, k_share, v_share;       // sequences of Q to one of K, of V
    uint mask_tokens, mask_heads, mask_sequences;
    uint q_token, q_head, q_sequence;       // strides in floats
    uint k_position, k_head, k_sequence;    // strides in 16-bit words
    uint v_position, v_head, v_sequence;
    float scale, softcap, max_bias, m0, m1;
    uint head_log2;
    uint run, splits;                       // positions of a split
} p;

layout (binding = 0) readonly  buffer Q { float    q_data[]; };
layout (binding = 3) readonly  buffer M { uint16_t mask_data[]; };
layout (binding = 4) writeonly buffer O { float    o_data[]; };

const uint CHUNK = 4; // values of a thread that are added up over the streams at a time

// The tables, and at the end what the streams add up. The sizes are those of turbo_decode_items.glsl.
const uint TABLES = (TYPE_K == GGML_TYPE_TURBO4 || TYPE_V == GGML_TYPE_TURBO4 ? 4096u : 0u) +
                    (TYPE_K == GGML_TYPE_TURBO3 || TYPE_V == GGML_TYPE_TURBO3 ? 2048u : 0u);
shared float table[TABLES > ROWS*CHUNK*THREADS ? TABLES : ROWS*CHUNK*THREADS];
shared vec4  weights[TEAMS*BATCH]; // of the batch, a position's of all rows
shared vec4  factors[TEAMS];       // of what is summed up so far
shared vec2  ends[TEAMS*ROWS];     // maximum, sum

#include "turbo_decode_items.glsl"

#define LOG2E  1.4426950408889634f
#define LN2    0.6931471805599453f
#define LOWEST -1e30f

void fill_tables(uint tid) {
    [[dont_unroll]] for (uint i = tid; i < TABLE_SIZE; i += THREADS) {
        const bool four = USES_TURBO4 && i < TURBO4_TABLE;
        const uint n    = four ? i/TABLE_BANKS + 64u : (i - TURBO3_AT)/TABLE_BANKS;
        table[i] = float(bitfieldExtract(int(turbo_books[n/4u]), int(8u*(n & 3u)), 8))*(1.0f/128.0f);
    }
}

// of the scores that a thread is left with
uint first_score(uint lane) {
    uint at = 0;
    [[unroll]] for (uint s = 0; s < SPREAD; ++s) {
        at = at*2u + (lane >> s & 1u);
    }
    return at*SCORES;
}

float slope_of(uint head) {
    if (p.max_bias == 0.0f) {
        return 1.0f;
    }
    return head < p.head_log2 ? pow(p.m0, float(head + 1u)) : pow(p.m1, float(2u*(head - p.head_log2) + 1u));
}

void main() {
    const uint tid    = gl_SubgroupID*gl_SubgroupSize + gl_SubgroupInvocationID;
    const uint lane   = tid & (TEAM - 1u);
    const uint team   = tid/TEAM;
    const uint bank   = tid & (TABLE_BANKS - 1u);
    const uint stream = team/KV_HEADS;

    const uint split    = gl_WorkGroupID.x % p.splits;
    const uint row0     = gl_WorkGroupID.x/p.splits*ROWS;
    const uint kv_head  = gl_WorkGroupID.y*KV_HEADS + team % KV_HEADS;
    const uint sequence = gl_WorkGroupID.z;
    const uint rows     = p.group*p.tokens; // row r: head r % group of token r/group

    fill_tables(tid);

    float q[ROWS*ITEMS*ITEM];
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        const uint row = min(row0 + r, rows - 1u);
        const uint at  = sequence*p.q_sequence + (kv_head*p.group + row % p.group)*p.q_head + row/p.group*p.q_token;
        [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
            [[unroll]] for (uint e = 0; e < ITEM; ++e) {
                q[(r*ITEMS + k)*ITEM + e] = q_data[at + value_index(TYPE_K, k*TEAM + lane, e)]*(SOFTCAP ? p.scale : p.scale*LOG2E);
            }
        }
    }

    const uint first   = first_score(lane);
    const uint my_r    = first/BATCH;
    const uint my_pos  = first & (BATCH - 1u);
    const uint my_row  = min(row0 + my_r, rows - 1u);
    const uint my_head = kv_head*p.group + my_row % p.group;
    const uint mask_at = ((sequence % p.mask_sequences*p.mask_heads + my_head % p.mask_heads)*p.mask_tokens + my_row/p.group)*p.KV;
    const float slope  = slope_of(my_head)*LOG2E;

    const uint begin   = split*p.run;
    const uint end     = min(begin + p.run, p.KV);
    const uint k_base  = sequence/p.k_share*p.k_sequence + kv_head*p.k_head;
    const uint v_base  = sequence/p.v_share*p.v_sequence + kv_head*p.v_head;

    float m = LOWEST;
    float l = 0.0f;
    float o[ROWS*ITEMS*ITEM];
    [[unroll]] for (uint i = 0; i < ROWS*ITEMS*ITEM; ++i) {
        o[i] = 0.0f;
    }

    loaded_item kx[BATCH*ITEMS];
    uint pos = begin + stream*BATCH;
    [[unroll]] for (uint u = 0; u < BATCH; ++u) {
        [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
            kx[u*ITEMS + k] = load_item(false, TYPE_K, k_base + min(pos + u, end - 1u)*p.k_position, k*TEAM + lane);
        }
    }

    barrier();

    [[dont_unroll]] for (uint done = begin; done < end; done += STREAMS*BATCH) {
        loaded_item vx[BATCH*ITEMS];
        [[unroll]] for (uint u = 0; u < BATCH; ++u) {
            [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
                vx[u*ITEMS + k] = load_item(true, TYPE_V, v_base + min(pos + u, end - 1u)*p.v_position, k*TEAM + lane);
            }
        }
        float bias[SCORES];
        if (MASK) {
            [[unroll]] for (uint i = 0; i < SCORES; ++i) {
                bias[i] = unpackHalf2x16(uint(mask_data[mask_at + min(pos + my_pos + i, end - 1u)])).x;
            }
        }

        float s[ROWS*BATCH];
        [[unroll]] for (uint i = 0; i < ROWS*BATCH; ++i) {
            s[i] = 0.0f;
        }
        [[unroll]] for (uint u = 0; u < BATCH; ++u) {
            [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
                const open_item_t y = open_item(TYPE_K, kx[u*ITEMS + k], k*TEAM + lane, bank);
                float dots[ROWS];
                [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                    dots[r] = 0.0f;
                }
                [[unroll]] for (uint e = 0; e < ITEM; ++e) {
                    const float x = value_of(TYPE_K, y, e);
                    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                        dots[r] = fma(q[(r*ITEMS + k)*ITEM + e], x, dots[r]);
                    }
                }
                [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                    s[r*BATCH + u] = fma(y.scale, dots[r], s[r*BATCH + u]);
                }
            }
        }

        const uint next = pos + STREAMS*BATCH;
        [[unroll]] for (uint u = 0; u < BATCH; ++u) {
            [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
                kx[u*ITEMS + k] = load_item(false, TYPE_K, k_base + min(next + u, end - 1u)*p.k_position, k*TEAM + lane);
            }
        }

        // the sums over the team, to its threads: each is left with SCORES of them, from `first` on
        [[unroll]] for (uint b = 0; b < TEAM_BITS; ++b) {
            if (b < SPREAD) {
                const uint n = ROWS*BATCH >> (b + 1);
                const bool upper = (lane >> b & 1u) != 0;
                [[unroll]] for (uint i = 0; i < n; ++i) {
                    const float mine  = upper ? s[i + n] : s[i];
                    const float other = upper ? s[i] : s[i + n];
                    s[i] = mine + subgroupShuffleXor(other, 1u << b);
                }
            } else {
                s[0] += subgroupShuffleXor(s[0], 1u << b);
            }
        }
        float top = m;
        [[unroll]] for (uint i = 0; i < SCORES; ++i) {
            float x = SOFTCAP ? p.softcap*LOG2E*tanh(s[i]) : s[i];
            if (MASK) {
                x = fma(slope, bias[i], x);
            }
            s[i] = pos + my_pos + i < end ? x : uintBitsToFloat(0xff800000u);
            top  = max(top, s[i]);
        }
        [[unroll]] for (uint b = ROW_BITS; b < SPREAD; ++b) {
            top = max(top, subgroupShuffleXor(top, 1u << b));
        }
        const float factor = exp2(m - top);
        m  = top;
        l *= factor;
        subgroupBarrier(); // the weights before these are read
        factors[team][my_r] = factor;
        [[unroll]] for (uint i = 0; i < SCORES; ++i) {
            const float w = exp2(s[i] - m);
            l += w;
            weights[team*BATCH + my_pos + i][my_r] = w;
        }
        subgroupMemoryBarrierShared();
        subgroupBarrier();

        const vec4 f = factors[team];
        bool rescale = false;
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
            rescale = rescale || f[r] != 1.0f;
        }
        if (rescale) {
            [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                [[unroll]] for (uint i = 0; i < ITEMS*ITEM; ++i) {
                    o[r*ITEMS*ITEM + i] *= f[r];
                }
            }
        }
        [[unroll]] for (uint u = 0; u < BATCH; ++u) {
            const vec4 w = weights[team*BATCH + u];
            [[unroll]] for (uint k = 0; k < ITEMS; ++k) {
                const open_item_t y = open_item(TYPE_V, vx[u*ITEMS + k], k*TEAM + lane, bank);
                float scaled[ROWS];
                [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                    scaled[r] = w[r]*y.scale;
                }
                [[unroll]] for (uint e = 0; e < ITEM; ++e) {
                    const float x = value_of(TYPE_V, y, e);
                    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
                        o[(r*ITEMS + k)*ITEM + e] = fma(scaled[r], x, o[(r*ITEMS + k)*ITEM + e]);
                    }
                }
            }
        }
        pos = next;
    }

    // ---- the streams of a head together -----------------------------------------------------------------------------

    [[unroll]] for (uint b = ROW_BITS; b < SPREAD; ++b) {
        l += subgroupShuffleXor(l, 1u << b);
    }
    ends[team*ROWS + my_r] = vec2(m, l); // threads with the same row write the same
    barrier();
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
        float top = LOWEST;
        [[dont_unroll]] for (uint t = 0; t < STREAMS; ++t) {
            top = max(top, ends[(t*KV_HEADS + team % KV_HEADS)*ROWS + r].x);
        }
        const float factor = exp2(ends[team*ROWS + r].x - top);
        [[unroll]] for (uint i = 0; i < ITEMS*ITEM; ++i) {
            o[r*ITEMS*ITEM + i] *= factor;
        }
    }

    const uint all = D*p.heads*p.splits*p.tokens*p.sequences;
    if (tid < KV_HEADS*ROWS) {
        const uint row = row0 + tid % ROWS;
        if (row < rows) {
            float top = LOWEST;
            float sum = 0.0f;
            [[dont_unroll]] for (uint t = 0; t < STREAMS; ++t) {
                top = max(top, ends[(t*KV_HEADS + tid/ROWS)*ROWS + tid % ROWS].x);
            }
            [[dont_unroll]] for (uint t = 0; t < STREAMS; ++t) {
                const vec2 x = ends[(t*KV_HEADS + tid/ROWS)*ROWS + tid % ROWS];
                sum = fma(exp2(x.x - top), x.y, sum);
            }
            const uint head = (gl_WorkGroupID.y*KV_HEADS + tid/ROWS)*p.group + row % p.group;
            const uint at   = all + p.heads*2u*(split + p.splits*(row/p.group + p.tokens*sequence)) + head;
            o_data[at]           = sum;
            o_data[at + p.heads] = top*LN2;
        }
    }

    // thread by thread of a stream in the last place: no two of a subgroup want the same bank
    const uint width = KV_HEADS*TEAM;
    [[unroll]] for (uint c = 0; c < ITEMS*ITEM/CHUNK; ++c) {
        barrier();
        [[unroll]] for (uint r = 0; r < ROWS; ++r) {
            [[unroll]] for (uint e = 0; e < CHUNK; ++e) {
                table[(r*CHUNK + e)*THREADS + tid] = o[r*ITEMS*ITEM + c*CHUNK + e];
            }
        }
        barrier();
        [[dont_unroll]] for (uint i = tid; i < ROWS*CHUNK*width; i += THREADS) {
            const uint re = i/width, x = i % width;
            const uint r = re/CHUNK, row = row0 + r;
            if (row < rows) {
                float sum = 0.0f;
                [[dont_unroll]] for (uint t = 0; t < STREAMS; ++t) {
                    sum += table[re*THREADS + t*width + x];
                }
                const uint n    = c*CHUNK + re % CHUNK;
                const uint head = (gl_WorkGroupID.y*KV_HEADS + x/TEAM)*p.group + row % p.group;
                const uint at   = D*(head + p.heads*(split + p.splits*(row/p.group + p.tokens*sequence)));
                o_data[at + value_index(TYPE_V, n/ITEM*TEAM + x % TEAM, n % ITEM)] = sum;
            }
        }
    }
}
