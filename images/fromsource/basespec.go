package fromsource

import (
	"encoding/json"
	"fmt"
)

// addProductHook adds kind's createContainer hook to an OCI runtime spec and
// takes the resource limits out, as kind's own image build does, so that pods
// inherit the node's.
func addProductHook(spec []byte) ([]byte, error) {
	var s map[string]any
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("reading the default spec: %w", err)
	}
	process, ok := s["process"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the default spec has no process")
	}
	delete(process, "rlimits")
	hooks, _ := s["hooks"].(map[string]any)
	if hooks == nil {
		hooks = map[string]any{}
	}
	create, _ := hooks["createContainer"].([]any)
	hooks["createContainer"] = append(create, map[string]any{"path": productHook})
	s["hooks"] = hooks
	return json.MarshalIndent(s, "", "  ")
}
