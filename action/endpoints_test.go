package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// behind are hosts that others hand over to: registries to where they ask for a token and where
// their blobs lie, the module proxy and releases likewise.
var behind = map[string]string{
	"auth.docker.io": "index.docker.io", "registry-1.docker.io": "index.docker.io", "production.cloudflare.docker.com": "index.docker.io",
	"pkg-containers.githubusercontent.com": "ghcr.io",
	"*.quay.io":                            "quay.io",
	"storage.googleapis.com":               "proxy.golang.org",
	"release-assets.githubusercontent.com": "github.com",
}

// The list of endpoints in docs/action.md is what the code can contact: the registries of every
// image it can ask for, the release's host, what the go command and Debian's tools ask, and every other
// host that is named in the code.
func TestEndpoints(t *testing.T) {
	can := map[string]string{ // by whom
		// The go command's defaults: programs, Cilium's chart and images from source are Go modules.
		"proxy.golang.org": "go", "sum.golang.org": "go",
		// mmdebstrap's and Debian's default, for images from source and for missing packages.
		"deb.debian.org": "apt",
	}
	for _, flavour := range []vault.Flavor{vault.Vault, vault.OpenBao} {
		c := zerotrust.Config{Intent: zerotrust.Precinct99(), Vault: flavour}
		for _, image := range append(c.ThirdPartyImages(), kindx.DefaultImage) {
			ref, err := name.ParseReference(image)
			if err != nil {
				t.Fatal(err)
			}
			can[ref.Context().RegistryStr()] = image
		}
	}
	shim, err := os.ReadFile("shim/binary.mjs")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range hosts(string(shim)) {
		can[host] = "the shim"
	}
	maps.Copy(can, hostsInCode(t))

	doc, err := os.ReadFile("../docs/action.md")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9.*-]+\\.[a-z]+):443` \\|").FindAllStringSubmatch(string(doc), -1) {
		told = append(told, row[1])
	}
	for host, who := range can {
		if !slices.Contains(told, host) {
			t.Errorf("%s contacts %s, which docs/action.md does not tell", who, host)
		}
	}
	for host, first := range behind {
		if !slices.Contains(told, host) {
			t.Errorf("docs/action.md tells %s, and not %s behind it", first, host)
		}
	}
	for _, host := range told {
		if can[host] == "" && can[behind[host]] == "" {
			t.Errorf("docs/action.md tells of %s, which nothing contacts", host)
		}
	}
}

var address = regexp.MustCompile(`https?://([A-Za-z0-9.-]+)`)

// hosts are the hosts of the addresses in a text, less those that are only talked about.
func hosts(text string) []string {
	var all []string
	for _, m := range address.FindAllString(text, -1) {
		u, err := url.Parse(m)
		if err != nil {
			continue
		}
		host := strings.TrimSuffix(u.Hostname(), ".")
		if !strings.Contains(host, ".") {
			continue // the beginning of a name that is put together, of a Service or from a setting
		}
		if !slices.Contains(talkedAbout, host) && !strings.HasSuffix(host, ".svc.cluster.local") {
			all = append(all, host)
		}
	}
	return all
}

// talkedAbout are hosts in messages for people, and this machine.
var talkedAbout = []string{"127.0.0.1", "docs.docker.com"}

// hostsInCode are those in the string literals of this module's packages that are in the program.
func hostsInCode(t *testing.T) map[string]string {
	t.Helper()
	out, err := run.Output(t.Context(), "go", "list", "-deps", "-json=Dir,ImportPath,GoFiles", ".")
	if err != nil {
		t.Fatal(err)
	}
	all, files := map[string]string{}, 0
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var p struct {
			Dir, ImportPath string
			GoFiles         []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, module+"/") {
			continue
		}
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files++
			ast.Inspect(file, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					text, _ := strconv.Unquote(l.Value)
					for _, host := range hosts(text) {
						all[host] = p.ImportPath + "/" + f
					}
				}
				return true
			})
		}
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
	return all
}
