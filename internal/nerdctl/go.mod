// The nerdctl that the test of examples/load under kind's nerdctl provider builds and runs. Beside
// nerdctl itself, its go.sum has no line that is not in nerdctl's own.
module github.com/org/spire-vault-99-action/internal/nerdctl

go 1.26.0

require github.com/containerd/nerdctl/v2 v2.2.1

// nerdctl replaces it by a folder of its repository, which its module does not hold.
replace github.com/containerd/nerdctl/mod/tigron => ./tigron
