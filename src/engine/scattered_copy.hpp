// Copies blocks between arrays that are larger than the caches.
#pragma once

#include <hwy/cache_control.h>

#include <array>
#include <cstddef>
#include <cstring>

namespace stella {

// Every piece misses the caches on both sides; copied one by one, each waits for its own misses. Here the
// loads of several pieces are under way at once. What was added is copied when this goes, or before.
class ScatteredCopy {
 public:
  ScatteredCopy() = default;
  ScatteredCopy(const ScatteredCopy&) = delete;
  ScatteredCopy& operator=(const ScatteredCopy&) = delete;
  ~ScatteredCopy() { flush(); }

  void add(float* to, const float* from, std::size_t numel) {
    hwy::Prefetch(from);
    hwy::Prefetch(to);
    pieces_[waiting_++] = {to, from, numel};
    if (waiting_ == pieces_.size()) flush();
  }

 private:
  struct Piece {
    float* to;
    const float* from;
    std::size_t numel;
  };

  void flush() {
    for (std::size_t i = 0; i < waiting_; ++i) {
      const Piece& piece = pieces_[i];
      std::memcpy(piece.to, piece.from, piece.numel * sizeof(float));
    }
    waiting_ = 0;
  }

  std::array<Piece, 16> pieces_;
  std::size_t waiting_ = 0;
};

}  // namespace stella
