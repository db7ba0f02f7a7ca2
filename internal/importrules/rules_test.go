// Package importrules holds the allow-list of what each package of this module
// may import and use. It has tests alone. A package that is not in the list fails them: add
// it to rules, with as little as it needs.
package importrules

// rule is what one package may do. The zero value imports no other package of this
// module, prints nothing, and may use any other module.
type rule struct {
	// imports are the packages of this module that it may import, tests those that its
	// tests may import besides (and, always, itself and internal/run).
	imports, tests []string
	// without are modules that must not be in its build, not even by way of others;
	// "." stands for everything but the standard library and this module.
	without []string
	// speaks allows it to print, to read the environment and the arguments, and to exit.
	speaks bool
	// forTests allows it to import the package testing.
	forTests bool
}

const (
	clientGo = "k8s.io/client-go"
	kind     = "sigs.k8s.io/kind"
	helm     = "helm.sh/helm"
)

// A path that ends in "/..." stands for the folder and all below it, in the keys and in
// the lists. The longest key that fits a package is its rule. A package need not exist.
var rules = map[string]rule{
	// internal: what the others stand on. It knows nothing of them.
	"internal/run":             {without: []string{"."}},
	"internal/redact":          {without: []string{"."}},
	"internal/filelock":        {without: []string{clientGo, kind, helm}},
	"internal/try":             {tests: []string{"internal/loopback"}, without: []string{"."}},
	"internal/kube":            {without: []string{kind, helm}},
	"internal/ociruntime":      {imports: []string{"internal/run"}, without: []string{"."}},
	"internal/ociruntime/shim": {speaks: true, without: []string{"."}},
	"internal/manifest":        {without: []string{"."}},
	"internal/spiffehelper":    {imports: []string{"internal/manifest"}, without: []string{"."}},
	"internal/ghostunnel":      {imports: []string{"internal/manifest"}, tests: []string{"internal/run", "internal/loopback", "spire", "spire/spiretest", "images/fromsource/sourcetest"}, without: []string{"k8s.io", kind, helm}},
	"internal/golden":          {forTests: true, speaks: true}, // tests get -update from it
	"internal/loopback":        {forTests: true},
	"internal/pgtest":          {forTests: true, imports: []string{"internal/loopback"}, without: []string{"k8s.io", kind, helm}},
	"internal/importrules":     {},
	"internal/spireversions":   {speaks: true, without: []string{"."}}, // its tests run those of others, as processes

	// The four layers, which never import each other. Tests may get programs to run
	// from sourcetest.
	"spire":           {imports: []string{"internal/redact"}, tests: []string{"spire/spiretest", "images/fromsource/sourcetest"}, without: []string{"k8s.io", kind, helm}},
	"spire/spiretest": {forTests: true, imports: []string{"internal/loopback"}, without: []string{"k8s.io", kind, helm}},
	"spire/deploy":    {imports: []string{"spire", "internal/..."}, tests: []string{"spire/spiretest", "images/fromsource/sourcetest"}, without: []string{kind, helm}},
	"cilium":          {imports: []string{"internal/..."}, without: []string{kind}},
	"kindx":           {imports: []string{"internal/..."}, without: []string{helm}},
	"kindx/kindtest":  {forTests: true, imports: []string{"kindx", "internal/run", "internal/kube"}, without: []string{helm}},
	// The image benchmark loads into a real cluster, beside kind's own way.
	"images":                        {imports: []string{"internal/run", "internal/redact", "internal/filelock"}, tests: []string{"kindx", "images/fromsource/sourcetest"}, without: []string{clientGo, kind, helm}},
	"images/fromsource":             {imports: []string{"images", "internal/run", "internal/redact", "internal/ociruntime", "internal/filelock"}, without: []string{clientGo, kind, helm}},
	"images/fromsource/sourcetest":  {forTests: true, speaks: true, imports: []string{"images", "images/fromsource", "internal/filelock"}, without: []string{clientGo, kind, helm}},
	"images/fromsource/recipes/...": {speaks: true, without: []string{"."}}, // programs that go into images

	// zerotrust puts them together.
	"zerotrust/phase":          {without: []string{"."}},
	"zerotrust/report":         {imports: []string{"zerotrust/phase"}, without: []string{"."}},
	"zerotrust/report/attest":  {imports: []string{"zerotrust/phase"}, without: []string{"k8s.io", kind, helm}},
	"zerotrust/probe":          {imports: []string{"zerotrust/phase", "cilium", "internal/..."}, without: []string{kind, helm}},
	"zerotrust/probe/prober":   {imports: []string{"internal/try"}, tests: []string{"internal/loopback"}, speaks: true, without: []string{"."}}, // a program that goes into an image
	"zerotrust/vault":          {imports: []string{"zerotrust/phase", "internal/..."}, without: []string{kind, helm}},
	"zerotrust/vault/unsealer": {speaks: true, without: []string{"k8s.io", kind, helm}},
	"zerotrust/postgres":       {imports: []string{"internal/..."}, without: []string{kind, helm}},
	"zerotrust/precinct":       {imports: []string{"zerotrust/phase"}, without: []string{"k8s.io", kind, helm}},
	"zerotrust": {imports: []string{"zerotrust/phase", "zerotrust/report", "zerotrust/probe", "zerotrust/vault", "zerotrust/postgres",
		"spire", "spire/deploy", "cilium", "kindx", "images", "images/fromsource", "internal/..."}, tests: []string{"spire/spiretest", "zerotrust/precinct", "kindx/kindtest"}},

	// Programs. Examples show what others can do, so they see what others see.
	"action":                     {imports: append([]string{"internal/..."}, public...), tests: []string{"kindx/kindtest"}, speaks: true},
	"examples/...":               {imports: append([]string{"examples/..."}, public...), tests: []string{"internal/pgtest", "internal/loopback"}, speaks: true},
	"examples/entries":           {imports: append([]string{"examples/entries/entryfile"}, public...), tests: []string{"spire/spiretest", "images/fromsource/sourcetest"}, speaks: true},
	"examples/load":              {imports: append([]string{"examples/..."}, public...), tests: []string{"images/fromsource/sourcetest"}, speaks: true},
	"examples/entries/entryfile": {imports: []string{"spire"}, without: []string{"k8s.io", kind, helm}},
}

// public is what other modules may import.
var public = []string{"zerotrust/...", "spire", "spire/deploy", "cilium", "kindx", "images", "images/fromsource"}
