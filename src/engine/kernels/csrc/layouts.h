// Sizes and field offsets of the structs that Python fills; a test compares them with structs.py.

#pragma once

#include <cstddef>

#include "layer.h"

namespace {

// Each layout: the struct's size, then the offsets of its fields in order, then -1.
constexpr int64_t LINEAR_LAYOUT[] = {
    sizeof(Linear), offsetof(Linear, weight), offsetof(Linear, bias), offsetof(Linear, scales),
    offsetof(Linear, shifts), offsetof(Linear, num_inputs), offsetof(Linear, num_outputs),
    offsetof(Linear, prefetch_distance), -1};

constexpr int64_t NORM_LAYOUT[] = {
    sizeof(Norm), offsetof(Norm, weight), offsetof(Norm, bias), offsetof(Norm, size),
    offsetof(Norm, subtracts_mean), offsetof(Norm, epsilon), -1};

constexpr int64_t ATTENTION_LAYOUT[] = {
    sizeof(Attention), offsetof(Attention, num_heads), offsetof(Attention, num_kv_heads),
    offsetof(Attention, key_dim), offsetof(Attention, value_dim), offsetof(Attention, window),
    offsetof(Attention, block_size), offsetof(Attention, cache_type), offsetof(Attention, keys),
    offsetof(Attention, values), offsetof(Attention, sinks), offsetof(Attention, prefetch_distance),
    offsetof(Attention, scale), offsetof(Attention, softcap), -1};

constexpr int64_t PROJECTION_LAYOUT[] = {
    sizeof(Projection), offsetof(Projection, query), offsetof(Projection, key), offsetof(Projection, value),
    offsetof(Projection, query_row_stride), offsetof(Projection, query_head_stride),
    offsetof(Projection, key_row_stride), offsetof(Projection, key_head_stride),
    offsetof(Projection, value_row_stride), offsetof(Projection, value_head_stride), -1};

constexpr int64_t LAYER_LAYOUT[] = {
    sizeof(Layer), offsetof(Layer, attention_norm), offsetof(Layer, query_norm), offsetof(Layer, key_norm),
    offsetof(Layer, mlp_norm), offsetof(Layer, qkv), offsetof(Layer, output), offsetof(Layer, up),
    offsetof(Layer, down), offsetof(Layer, attention), offsetof(Layer, rotary_dim),
    offsetof(Layer, activation), offsetof(Layer, is_gated), -1};

constexpr const int64_t* LAYOUTS[] = {LINEAR_LAYOUT, NORM_LAYOUT, ATTENTION_LAYOUT, PROJECTION_LAYOUT, LAYER_LAYOUT};

}  // namespace
