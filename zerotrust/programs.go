package zerotrust

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// program is the image of one Go main package.
type program struct {
	ref    string
	digest string
}

// programPackages are the packages to build: those of the workloads, and the programs
// that the stack brings along.
func (s *Stack) programPackages() []string {
	all := []string{proberPackage}
	for _, w := range s.cfg.Intent.applications() {
		if w.Package != "" {
			all = append(all, w.Package)
		}
	}
	if _, ok := s.cfg.Intent.Running(Vault); ok {
		all = append(all, unsealerPackage)
	}
	return all
}

// buildPrograms builds one after the other: the go command itself uses all cores.
func (s *Stack) buildPrograms(ctx context.Context) error {
	for _, pkg := range s.programPackages() {
		if _, err := s.program(ctx, pkg); err != nil {
			return err
		}
	}
	return nil
}

// ModuleOf is the folder of the Go module that a file belongs to: that of the next go.mod beside
// it or above it, "" if there is none. It is where the packages that an intent names are meant to be
// built (Config.SourceDir).
func ModuleOf(file string) (string, error) {
	dir, err := filepath.Abs(filepath.Dir(file))
	for err == nil {
		info, statErr := os.Stat(filepath.Join(dir, "go.mod"))
		switch up := filepath.Dir(dir); {
		case statErr == nil && info.Mode().IsRegular():
			return dir, nil
		case up == dir:
			return "", nil
		default:
			dir = up
		}
	}
	return "", fmt.Errorf("looking for the go.mod of %s: %w", file, err)
}

// build says where and how the image of a package is built.
func (c Config) build(pkg string) images.BuildConfig {
	if c.ProgramsDir != "" && slices.Contains([]string{proberPackage, unsealerPackage}, pkg) {
		return images.BuildConfig{Dir: c.ProgramsDir, Package: pkg, BuildEnv: []string{"GOWORK=off"}}
	}
	return images.BuildConfig{Dir: c.SourceDir, Package: pkg}
}

// program builds the image of a package, once in the life of the stack.
//
// Its tag is its content: the image holds nothing but the program, which go build makes
// the same of the same source, so an edit gives a new tag to what it changes and to
// nothing else, and a rollout happens where something changed.
func (s *Stack) program(ctx context.Context, pkg string) (program, error) {
	s.building.Lock()
	defer s.building.Unlock()
	if p, done := s.programs[pkg]; done {
		return p, nil
	}
	img, err := images.Build(ctx, s.cfg.build(pkg))
	if err != nil {
		return program{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return program{}, err
	}
	p := program{ref: appRepository(s.cfg.Intent, pkg) + ":" + digest.Hex[:12], digest: digest.String()}
	kept, found, err := s.cache.Get(p.ref)
	if err != nil {
		return program{}, err
	}
	if !found {
		if kept, err = s.cache.Put(ctx, p.ref, img); err != nil {
			return program{}, err
		}
		phase.Progress(ctx, "built %s", p.ref)
	}
	s.keep(p.ref, kept)
	s.programs[pkg] = p
	return p, nil
}

// appRepository is where the image of a package is called to be; into kind's
// nodes it is loaded and never pulled, so the host need not exist.
func appRepository(in Intent, pkg string) string {
	return localHost + in.Name + "/" + path.Base(pkg)
}

// appImages are the image references of the applications that are built, by workload.
func (s *Stack) appImages(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	for _, w := range s.cfg.Intent.applications() {
		if w.Package == "" {
			continue
		}
		p, err := s.program(ctx, w.Package)
		if err != nil {
			return nil, err
		}
		all[w.Name] = s.image(p.ref)
	}
	return all, nil
}

// probes puts probes into pods. Their image is on the nodes, or is put there now.
func (s *Stack) probes(ctx context.Context) (*probe.Prober, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	if s.cfg.ProberImage != "" {
		return probe.New(client, probe.Config{Image: s.cfg.ProberImage, PullPolicy: "IfNotPresent"}), nil
	}
	p, err := s.program(ctx, proberPackage)
	if err != nil {
		return nil, err
	}
	if s.installs() {
		return probe.New(client, probe.Config{Image: s.image(p.ref), PullPolicy: "IfNotPresent"}), nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	if s.prober != nil {
		return s.prober, nil
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	img, _ := s.resolved(p.ref)
	if _, err := images.Load(ctx, nodes, []images.NamedImage{{Ref: p.ref, Image: img}}, images.LoadConfig{}); err != nil {
		return nil, err
	}
	s.prober = probe.New(client, probe.Config{Image: p.ref})
	return s.prober, nil
}
