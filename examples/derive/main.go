// Command derive prints what follows from an intent, without a cluster: for review, or to
// be put under GitOps.
//
//	go run ./examples/derive -intent zerotrust.yaml policies > policies.yaml
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

const usage = `Prints what follows from an intent, without a cluster:

  go run ./examples/derive [-intent zerotrust.yaml] WHAT

WHAT is one of:
  entries           SPIRE's registration entries, as ClusterStaticEntry manifests
  policies          CiliumNetworkPolicies
  networkpolicies   plain Kubernetes NetworkPolicies, which say less (-pod-network)
  namespaces        the namespaces and the admission policy that guards them
  vault             what Vault is configured with: paths and what is written there
  verifier          the rights that examples/verify needs, as Roles and a ClusterRole
  matrix            each attempt to connect that is tried, and what is to become of it
  intent            the intent itself, as it was understood
  schema            the JSON Schema of an intent, for editors

Flags:
`

// derivations are what there is to print.
var derivations = map[string]func(zerotrust.Intent, options) ([]byte, error){
	"entries":    func(in zerotrust.Intent, _ options) ([]byte, error) { return entries(in) },
	"policies":   func(in zerotrust.Intent, _ options) ([]byte, error) { return zerotrust.Policies(in) },
	"namespaces": func(in zerotrust.Intent, _ options) ([]byte, error) { return zerotrust.Namespaces(in) },
	"networkpolicies": func(in zerotrust.Intent, o options) ([]byte, error) {
		return zerotrust.NetworkPolicies(in, o.podNetworks...)
	},
	"verifier": func(in zerotrust.Intent, _ options) ([]byte, error) { return zerotrust.VerifierRoles(in) },
	"vault":    func(in zerotrust.Intent, _ options) ([]byte, error) { return vaultObjects(in) },
	"matrix":   func(in zerotrust.Intent, _ options) ([]byte, error) { return matrix(in), nil },
	"intent":   func(in zerotrust.Intent, _ options) ([]byte, error) { return in.YAML() },
	"schema":   func(zerotrust.Intent, options) ([]byte, error) { return zerotrust.IntentSchema(), nil },
}

type options struct {
	intent      string
	podNetworks []string
}

func run(args []string, stdout, stderr io.Writer) error {
	var o options
	f := flag.NewFlagSet("derive", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	f.StringVar(&o.intent, "intent", "", "file with the intent (default: precinct-99's)")
	f.Func("pod-network", "network of the cluster's pods, such as 10.244.0.0/16; may be given several times", func(s string) error {
		o.podNetworks = append(o.podNetworks, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	derive, known := derivations[f.Arg(0)]
	if !known || f.NArg() != 1 {
		return fmt.Errorf("derive: want one of entries, policies, networkpolicies, namespaces, vault, verifier, matrix, intent, schema; got %q: see --help", f.Args())
	}
	in := zerotrust.Precinct99()
	if o.intent != "" {
		var err error
		if in, err = zerotrust.ReadIntent(o.intent); err != nil {
			return err
		}
	}
	out, err := derive(in, o)
	if err != nil {
		return fmt.Errorf("derive: %w", err)
	}
	_, err = stdout.Write(out)
	return err
}

// entries are as spire-controller-manager takes them:
// https://github.com/spiffe/spire-controller-manager/blob/main/docs/clusterstaticentry-crd.md
func entries(in zerotrust.Intent) ([]byte, error) {
	all, err := zerotrust.Entries(in)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, e := range all {
		text, err := yaml.Marshal(map[string]any{
			"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterStaticEntry",
			"metadata": map[string]any{"name": entryName(e)}, "spec": entrySpec(e),
		})
		if err != nil {
			return nil, err
		}
		out = append(append(out, "---\n"...), text...)
	}
	return out, nil
}

func entryName(e spire.Entry) string {
	name := strings.Trim(strings.ReplaceAll(e.SPIFFEID.Path(), "/", "-"), "-")
	return strings.ToLower(name)
}

func entrySpec(e spire.Entry) map[string]any {
	var selectors []string
	for _, s := range e.Selectors {
		selectors = append(selectors, s.Type+":"+s.Value)
	}
	slices.Sort(selectors)
	spec := map[string]any{"spiffeID": e.SPIFFEID.String(), "parentID": e.ParentID.String(), "selectors": selectors}
	if e.Admin {
		spec["admin"] = true
	}
	if e.Downstream {
		spec["downstream"] = true
	}
	if len(e.DNSNames) > 0 {
		spec["dnsNames"] = e.DNSNames
	}
	if e.X509TTL > 0 {
		spec["x509SVIDTTL"] = e.X509TTL.String()
	}
	return spec
}

func vaultObjects(in zerotrust.Intent) ([]byte, error) {
	settings, err := zerotrust.VaultSettings(in)
	if err != nil {
		return nil, err
	}
	// By way of JSON, so that the keys are in lower case.
	var all []map[string]any
	for _, o := range vault.Objects(settings) {
		all = append(all, map[string]any{"path": o.Path, "data": o.Data})
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(text)
}

func matrix(in zerotrust.Intent) []byte {
	var out []byte
	for _, c := range zerotrust.Matrix(in) {
		want := "denied"
		if c.Allowed {
			want = "allowed"
		}
		if c.Authenticated {
			want += ", authenticated"
		}
		out = fmt.Appendf(out, "%-50s %s\n", c, want)
	}
	return out
}
