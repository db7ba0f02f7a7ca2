// What the command nerdctl needs of its own test library to be compiled: one type.
module github.com/containerd/nerdctl/mod/tigron

go 1.23
