package kindx

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// shape is what of a Config a running cluster cannot change: two clusters of the
// same shape are the same. Its JSON is kept in the cluster; a field added later
// must be omitted where it has its default, or every older cluster would differ.
type shape struct {
	Image             string   `json:"image"`
	Workers           int      `json:"workers"`
	PodSubnet         string   `json:"podSubnet,omitempty"`
	ServiceSubnet     string   `json:"serviceSubnet,omitempty"`
	DisableDefaultCNI bool     `json:"disableDefaultCNI,omitempty"`
	KubeProxyMode     string   `json:"kubeProxyMode"`
	KubeadmPatches    []string `json:"kubeadmPatches,omitempty"`
	ContainerdPatches []string `json:"containerdPatches,omitempty"`
	PortMappings      []string `json:"portMappings,omitempty"`
	Mounts            []string `json:"mounts,omitempty"`
}

// shapeOf expects a Config with its defaults filled in. The order of port
// mappings and mounts does not matter; that of patches does.
func shapeOf(c Config) shape {
	s := shape{
		Image: c.Image, Workers: c.Workers, PodSubnet: c.PodSubnet, ServiceSubnet: c.ServiceSubnet,
		DisableDefaultCNI: c.DisableDefaultCNI, KubeProxyMode: c.KubeProxyMode,
		KubeadmPatches: c.KubeadmPatches, ContainerdPatches: c.ContainerdPatches,
	}
	for _, p := range c.PortMappings {
		s.PortMappings = append(s.PortMappings, p.String())
	}
	for _, m := range c.Mounts {
		s.Mounts = append(s.Mounts, m.String())
	}
	slices.Sort(s.PortMappings)
	slices.Sort(s.Mounts)
	return s
}

// marker is the file in the control plane that says of which shape the cluster
// is, and that it was finished.
type marker struct {
	Format int             `json:"format"`
	Shape  json.RawMessage `json:"shape"`
}

const (
	markerPath   = "/kind/precinct-config.json"
	markerFormat = 1
)

func (s shape) json() []byte {
	doc, err := json.Marshal(s)
	if err != nil {
		panic("kindx: a shape is strings and numbers, which cannot fail to encode: " + err.Error())
	}
	return doc
}

func (s shape) marker() []byte {
	doc, err := json.Marshal(marker{Format: markerFormat, Shape: s.json()})
	if err != nil {
		panic("kindx: a marker cannot fail to encode: " + err.Error())
	}
	return append(doc, '\n')
}

// fingerprint is a short name for a shape.
func (s shape) fingerprint() string {
	sum := sha256.Sum256(s.json())
	return hex.EncodeToString(sum[:8])
}

// Difference is one thing in which a cluster is not as wanted.
type Difference struct{ Field, Have, Want string }

func (d Difference) String() string { return d.Field + ": " + d.Have + " → " + d.Want }

// MismatchError says that a cluster of that name exists, and is another one.
type MismatchError struct {
	Name        string
	Differences []Difference // never empty, sorted by field
}

func (e *MismatchError) Error() string {
	var all []string
	for _, d := range e.Differences {
		all = append(all, d.String())
	}
	return fmt.Sprintf("cluster %q exists and differs from what is wanted (have → want): %s: take another name, delete it, or ask for it to be recreated", e.Name, strings.Join(all, "; "))
}

// compare reads a marker and lists in what the cluster differs. An error means
// that it is no marker.
func (s shape) compare(markerFile []byte) ([]Difference, error) {
	var m marker
	if err := json.Unmarshal(markerFile, &m); err != nil {
		return nil, err
	}
	if m.Format != markerFormat {
		if m.Format == 0 {
			return nil, errors.New("it names no format")
		}
		return []Difference{{"format", fmt.Sprint(m.Format), fmt.Sprint(markerFormat)}}, nil
	}
	var have, want map[string]json.RawMessage
	if err := json.Unmarshal(m.Shape, &have); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(s.json(), &want); err != nil {
		return nil, err
	}
	fields := maps.Clone(want)
	maps.Copy(fields, have)
	var all []Difference
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		h, w := string(have[field]), string(want[field])
		if h != w {
			all = append(all, Difference{field, orNone(h), orNone(w)})
		}
	}
	return all, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
