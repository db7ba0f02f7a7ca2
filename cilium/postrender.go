package cilium

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// relayStartup is a Helm post-renderer that has Hubble Relay's startup probe ask
// from the first second on. The chart's waits ten seconds first and has no value for
// it; Relay serves within one. How long Relay may take until it is killed stays.
type relayStartup struct{}

var docSeparator = []byte("\n---\n")

// Run changes the one document and leaves every other byte as it is.
func (relayStartup) Run(manifests *bytes.Buffer) (*bytes.Buffer, error) {
	docs := bytes.Split(manifests.Bytes(), docSeparator)
	for i, doc := range docs {
		if !bytes.Contains(doc, []byte("\nkind: Deployment")) || !bytes.Contains(doc, []byte("\n  name: hubble-relay\n")) {
			continue
		}
		changed, err := askAtOnce(doc)
		if err != nil {
			return nil, fmt.Errorf("startup probe of Deployment hubble-relay: %w", err)
		}
		docs[i] = bytes.TrimSpace(changed)
		if i == 0 {
			docs[i] = append([]byte("---\n"), docs[i]...)
		}
	}
	return bytes.NewBuffer(bytes.Join(docs, docSeparator)), nil
}

// askAtOnce has each startup probe of a Deployment begin at once and ask every second.
func askAtOnce(doc []byte) ([]byte, error) {
	asJSON, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, err
	}
	var o unstructured.Unstructured // keeps what no Go type here knows
	if err := o.UnmarshalJSON(asJSON); err != nil {
		return nil, err
	}
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		container, _ := c.(map[string]any)
		probe, ok := container["startupProbe"].(map[string]any)
		if !ok {
			continue
		}
		seconds := func(field string, byDefault int64) int64 {
			if n, ok := probe[field].(int64); ok {
				return n
			}
			return byDefault
		}
		// The defaults are Kubernetes'.
		patience := seconds("initialDelaySeconds", 0) + seconds("periodSeconds", 10)*seconds("failureThreshold", 3)
		delete(probe, "initialDelaySeconds")
		probe["periodSeconds"], probe["failureThreshold"] = int64(1), patience
	}
	if err := unstructured.SetNestedSlice(o.Object, containers, path...); err != nil {
		return nil, err
	}
	return yaml.Marshal(o.Object)
}
