#include "kernels/accumulate_score.hpp"

#include <hwy/cache_control.h>

#include <cassert>
#include <cstdint>

#include "kernels/block.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/accumulate_score.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/half-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What one call works on; places count elements.
template <class T>
struct Arrays {
  const T* gradient;
  float weight;
  const float* residual;
  float* sum;
};

// sum = residual + weight * gradient in Lanes(d) places from `at`; returns sum^2. With kStream past the
// caches.
template <bool kStream, class D, class T>
HWY_INLINE hn::Vec<D> accumulate(D d, const Arrays<T>& a, std::size_t at) {
  const auto sum =
      hn::Add(hn::LoadU(d, a.residual + at), hn::Mul(hn::Set(d, a.weight), load_fp32(d, a.gradient + at)));
  if constexpr (kStream) {
    hn::Stream(sum, d, a.sum + at);
  } else {
    hn::StoreU(sum, d, a.sum + at);
  }
  return hn::Mul(sum, sum);
}

#if HWY_TARGET == HWY_SCALAR  // one lane, and no operations across lanes

template <bool kStream, class T>
void accumulate_all(const Arrays<T>& a, std::size_t blocks, float* scores) {
  const hn::CappedTag<float, 1> d;
  for (std::size_t block = 0; block < blocks; ++block) {
    float x[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i)
      x[i] = hn::GetLane(accumulate<kStream>(d, a, block * kBlock + i));
    float t[4];
    for (std::size_t j = 0; j < 4; ++j) t[j] = (x[j] + x[j + 8]) + (x[j + 4] + x[j + 12]);
    scores[block] = (t[0] + t[2]) + (t[1] + t[3]);
  }
}

#else

using Quarter = hn::CappedTag<float, 4>;

// Halves until four lanes are left.
template <class V>
HWY_INLINE hn::Vec<Quarter> fold(V v) {
  const hn::DFromV<V> d;
  if constexpr (hn::MaxLanes(d) == 4) {
    return v;
  } else {
    const hn::Half<decltype(d)> half;
    return fold(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// accumulate() for one block; returns its t.
template <bool kStream, class D, class T>
HWY_INLINE hn::Vec<Quarter> accumulate_block(D d, const Arrays<T>& a, std::size_t at) {
  const auto x0 = accumulate<kStream>(d, a, at);
  if constexpr (hn::MaxLanes(d) == 16) {
    return fold(x0);
  } else if constexpr (hn::MaxLanes(d) == 8) {
    return fold(hn::Add(x0, accumulate<kStream>(d, a, at + 8)));
  } else {
    const auto x4 = accumulate<kStream>(d, a, at + 4);
    const auto x8 = accumulate<kStream>(d, a, at + 8);
    const auto x12 = accumulate<kStream>(d, a, at + 12);
    return hn::Add(hn::Add(x0, x8), hn::Add(x4, x12));
  }
}

// The scores of four blocks from their t.
HWY_INLINE hn::Vec<Quarter> scores_of(hn::Vec<Quarter> t0, hn::Vec<Quarter> t1, hn::Vec<Quarter> t2,
                                      hn::Vec<Quarter> t3) {
  const Quarter d;
  const auto s01 = hn::Add(hn::ConcatLowerLower(d, t1, t0), hn::ConcatUpperUpper(d, t1, t0));
  const auto s23 = hn::Add(hn::ConcatLowerLower(d, t3, t2), hn::ConcatUpperUpper(d, t3, t2));
  return hn::Add(hn::ConcatEven(d, s23, s01), hn::ConcatOdd(d, s23, s01));
}

template <bool kStream, class T>
void accumulate_all(const Arrays<T>& a, std::size_t blocks, float* scores) {
  const Quarter d;
  const hn::CappedTag<float, kBlock> wide;
  const auto t = [&](std::size_t block)
                     HWY_ATTR { return accumulate_block<kStream>(wide, a, block * kBlock); };
  std::size_t block = 0;
  for (; block + 4 <= blocks; block += 4) {
    const auto t0 = t(block), t1 = t(block + 1), t2 = t(block + 2), t3 = t(block + 3);
    hn::StoreU(scores_of(t0, t1, t2, t3), d, scores + block);
  }
  for (; block < blocks; ++block) {
    const auto last = t(block);
    scores[block] = hn::GetLane(scores_of(last, last, last, last));
  }
}

#endif

template <class T>
void accumulate_score_of(std::span<const T> gradient, float weight, const float* residual, float* sum,
                         float* scores) {
  const Arrays<T> arrays{gradient.data(), weight, residual, sum};
  const bool on_a_cache_line = reinterpret_cast<std::uintptr_t>(sum) % 64 == 0;
  if (sum != residual && on_a_cache_line) {
    accumulate_all<true>(arrays, gradient.size() / kBlock, scores);
    hwy::FlushStream();
  } else {
    accumulate_all<false>(arrays, gradient.size() / kBlock, scores);
  }
}

void accumulate_score_fp32(std::span<const float> gradient, float weight, const float* residual, float* sum,
                           float* scores) {
  accumulate_score_of(gradient, weight, residual, sum, scores);
}
void accumulate_score_bf16(std::span<const Bf16> gradient, float weight, const float* residual, float* sum,
                           float* scores) {
  accumulate_score_of(gradient, weight, residual, sum, scores);
}
void accumulate_score_fp16(std::span<const Fp16> gradient, float weight, const float* residual, float* sum,
                           float* scores) {
  accumulate_score_of(gradient, weight, residual, sum, scores);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(accumulate_score_fp32);
HWY_EXPORT(accumulate_score_bf16);
HWY_EXPORT(accumulate_score_fp16);

void accumulate_score(std::span<const float> gradient, float weight, const float* residual, float* sum,
                      float* scores) {
  assert(gradient.size() % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(accumulate_score_fp32)(gradient, weight, residual, sum, scores);
}
void accumulate_score(std::span<const Bf16> gradient, float weight, const float* residual, float* sum,
                      float* scores) {
  assert(gradient.size() % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(accumulate_score_bf16)(gradient, weight, residual, sum, scores);
}
void accumulate_score(std::span<const Fp16> gradient, float weight, const float* residual, float* sum,
                      float* scores) {
  assert(gradient.size() % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(accumulate_score_fp16)(gradient, weight, residual, sum, scores);
}

}  // namespace stella
#endif
