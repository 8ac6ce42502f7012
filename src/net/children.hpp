// What the children of this process must not hold. A connection ends only when the last process that holds
// its socket has closed it: with a copy in a DataLoader's worker, the others would not notice that this
// process was killed, and its port would stay taken.
#pragma once

namespace stella {

// A child that this process forks from now on closes its copy of the socket before fork() returns there, and
// a program that it executes does not get one. The parent's own is not touched. Nothing is to be undone: once
// the number belongs to another socket or file, that one is left alone. Any thread. Numbers above 65,535 are
// only kept from executed programs.
void keep_from_children(int socket);

}  // namespace stella
