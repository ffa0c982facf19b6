//! Makes sure the folder of the built page exists, so that the hub builds before the page does.

fn main() {
    let page = "../web-demo/dist";
    println!("cargo:rerun-if-changed={page}");
    if let Err(error) = std::fs::create_dir_all(page) {
        println!("cargo:warning=cannot make {page}: {error}");
    }
}
