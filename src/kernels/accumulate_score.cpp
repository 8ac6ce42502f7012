#include "kernels/accumulate_score.hpp"

#include <cassert>
#include <cmath>

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
  float* residual;
  float* scores;
};

// A block's new residual, not stored yet.
template <class D>
struct Sums {
  static constexpr std::size_t kParts = kBlock / hn::MaxLanes(D());
  hn::Vec<D> part[kParts];
};

template <class D, class T>
HWY_INLINE Sums<D> sums_of(D d, const Arrays<T>& a, std::size_t block) {
  Sums<D> sums;
  for (std::size_t i = 0; i < Sums<D>::kParts; ++i) {
    const std::size_t at = block * kBlock + i * hn::MaxLanes(d);
    sums.part[i] =
        hn::Add(hn::LoadU(d, a.residual + at), hn::Mul(hn::Set(d, a.weight), load_fp32(d, a.gradient + at)));
  }
  return sums;
}

template <class D, class T>
HWY_INLINE void store(D d, const Sums<D>& sums, const Arrays<T>& a, std::size_t block) {
  for (std::size_t i = 0; i < Sums<D>::kParts; ++i)
    hn::StoreU(sums.part[i], d, a.residual + block * kBlock + i * hn::MaxLanes(d));
}

template <class D>
bool finite(D d, const Sums<D>& sums) {
  for (std::size_t i = 0; i < Sums<D>::kParts; ++i)
    if (!hn::AllTrue(d, hn::IsFinite(sums.part[i]))) return false;
  return true;
}

#if HWY_TARGET == HWY_SCALAR  // one lane, and no operations across lanes

using Wide = hn::CappedTag<float, 1>;

HWY_INLINE float score_of(const Sums<Wide>& sums) {
  float x[kBlock];
  for (std::size_t i = 0; i < kBlock; ++i) x[i] = hn::GetLane(hn::Mul(sums.part[i], sums.part[i]));
  float t[4];
  for (std::size_t j = 0; j < 4; ++j) t[j] = (x[j] + x[j + 8]) + (x[j + 4] + x[j + 12]);
  return (t[0] + t[2]) + (t[1] + t[3]);
}

template <class T>
bool accumulate_four(const Arrays<T>&, std::size_t) {
  return false;
}

#else

using Wide = hn::CappedTag<float, kBlock>;
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

template <class V>
HWY_INLINE V square(V v) {
  return hn::Mul(v, v);
}

// A block's t.
template <class D>
HWY_INLINE hn::Vec<Quarter> quarters_of(const Sums<D>& sums) {
  if constexpr (Sums<D>::kParts == 1) {
    return fold(square(sums.part[0]));
  } else if constexpr (Sums<D>::kParts == 2) {
    return fold(hn::Add(square(sums.part[0]), square(sums.part[1])));
  } else {
    return hn::Add(hn::Add(square(sums.part[0]), square(sums.part[2])),
                   hn::Add(square(sums.part[1]), square(sums.part[3])));
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

HWY_INLINE float score_of(const Sums<Wide>& sums) {
  const auto t = quarters_of(sums);
  return hn::GetLane(scores_of(t, t, t, t));
}

// Four blocks from `block` on, if all their scores are finite: then so are their sums.
template <class T>
HWY_INLINE bool accumulate_four(const Arrays<T>& a, std::size_t block) {
  const Wide d;
  const auto sums0 = sums_of(d, a, block), sums1 = sums_of(d, a, block + 1);
  const auto sums2 = sums_of(d, a, block + 2), sums3 = sums_of(d, a, block + 3);
  const auto scores =
      scores_of(quarters_of(sums0), quarters_of(sums1), quarters_of(sums2), quarters_of(sums3));
  const Quarter quarter;
  if (!hn::AllTrue(quarter, hn::IsFinite(scores))) return false;
  store(d, sums0, a, block);
  store(d, sums1, a, block + 1);
  store(d, sums2, a, block + 2);
  store(d, sums3, a, block + 3);
  hn::StoreU(scores, quarter, a.scores + block);
  return true;
}

#endif

template <class T>
bool accumulate_one(const Arrays<T>& a, std::size_t block) {
  const Wide d;
  const auto sums = sums_of(d, a, block);
  const float score = score_of(sums);
  if (!std::isfinite(score) && !finite(d, sums)) return false;
  store(d, sums, a, block);
  a.scores[block] = score;
  return true;
}

template <class T>
std::size_t accumulate_all(std::span<const T> gradient, float weight, float* residual, float* scores) {
  const Arrays<T> a{gradient.data(), weight, residual, scores};
  const std::size_t blocks = gradient.size() / kBlock;
  std::size_t block = 0;
  while (block < blocks) {
    if (block + 4 <= blocks && accumulate_four(a, block)) {
      block += 4;
    } else if (accumulate_one(a, block)) {
      ++block;
    } else {
      return block;
    }
  }
  return blocks;
}

std::size_t accumulate_score_fp32(std::span<const float> gradient, float weight, float* residual,
                                  float* scores) {
  return accumulate_all(gradient, weight, residual, scores);
}
std::size_t accumulate_score_bf16(std::span<const Bf16> gradient, float weight, float* residual,
                                  float* scores) {
  return accumulate_all(gradient, weight, residual, scores);
}
std::size_t accumulate_score_fp16(std::span<const Fp16> gradient, float weight, float* residual,
                                  float* scores) {
  return accumulate_all(gradient, weight, residual, scores);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(accumulate_score_fp32);
HWY_EXPORT(accumulate_score_bf16);
HWY_EXPORT(accumulate_score_fp16);

std::size_t accumulate_score(std::span<const float> gradient, float weight, float* residual, float* scores) {
  assert(gradient.size() % kBlock == 0);
  return HWY_DYNAMIC_DISPATCH(accumulate_score_fp32)(gradient, weight, residual, scores);
}
std::size_t accumulate_score(std::span<const Bf16> gradient, float weight, float* residual, float* scores) {
  assert(gradient.size() % kBlock == 0);
  return HWY_DYNAMIC_DISPATCH(accumulate_score_bf16)(gradient, weight, residual, scores);
}
std::size_t accumulate_score(std::span<const Fp16> gradient, float weight, float* residual, float* scores) {
  assert(gradient.size() % kBlock == 0);
  return HWY_DYNAMIC_DISPATCH(accumulate_score_fp16)(gradient, weight, residual, scores);
}

}  // namespace stella
#endif
